from .cost import rounds_of_steps as rounds_of_steps
from .outcome import compare as compare
from .plan import make_plan as make_plan
