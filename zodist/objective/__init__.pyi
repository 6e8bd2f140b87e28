from .aim import Objective as Objective
from .aim import objective_of as objective_of
from .judged import judged as judged
from .reward import Reward as Reward
from .reward import Written as Written
from .reward import each as each
