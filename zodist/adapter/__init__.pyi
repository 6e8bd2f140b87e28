from .beside import attached as attached
from .beside import save as save
