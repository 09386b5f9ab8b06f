from florence.predict.model import Model as Model
from florence.predict.model import load as load

__all__ = ["Model", "load"]
