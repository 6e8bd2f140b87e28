from .results import Tuned as Tuned
from .trainer import Trainer as Trainer
from .trainer import fine_tune as fine_tune
