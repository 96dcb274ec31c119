from .loading import load_model as load_model
from .sequence_model import SequenceModel as SequenceModel
from .state import State as State
