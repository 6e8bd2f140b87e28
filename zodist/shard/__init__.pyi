from .files import WeightFiles as WeightFiles
from .held import Gathered as Gathered
from .held import Held as Held
from .joined import joined as joined
from .shards import Shards as Shards
