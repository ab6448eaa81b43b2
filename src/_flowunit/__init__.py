"""The name under which ModelBox's units import the module: `import _flowunit as modelbox`."""

from modelbox import *  # noqa: F403
from modelbox import __getattr__ as __getattr__
