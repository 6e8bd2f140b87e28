from .command import supervise as supervise
from .crew import Elastic as Elastic
from .joining import fetch as fetch
from .supervisor import serve as serve
from .team import team_of as team_of
