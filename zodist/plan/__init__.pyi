from .against import compare as compare
from .against import measured_cells as measured_cells
from .asking import asked_of as asked_of
from .calibration import REFERENCE as REFERENCE
from .calibration import Pace as Pace
from .command import plan as plan
from .measure import rounds_s as rounds_s
from .shapes import shape_of as shape_of
