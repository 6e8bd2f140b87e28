from .command import apply as apply
from .command import replay as replay
from .command import share as share
