from .fold import LANES as LANES
from .fold import STEPS as STEPS
from .fold import Recorded as Recorded
from .subject import subject as subject
from .suite import CHECKS as CHECKS
from .toys import RUN as RUN
from .toys import made_up as made_up
from .toys import weights as weights
