"""Methods: what is asked, how it is matched, and how S is parametrised; a file each, registered by name."""

from private_distdd.methods import collabdm as _collabdm  # noqa: F401 - registers itself
from private_distdd.methods import distdd as _distdd  # noqa: F401 - registers itself
from private_distdd.methods import feddgm as _feddgm  # noqa: F401 - registers itself
from private_distdd.methods.register import method_named, register_method, registered_methods

__all__ = ["method_named", "register_method", "registered_methods"]
