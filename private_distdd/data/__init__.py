"""Examples, and what is public about them."""

from private_distdd.data import image as _image  # noqa: F401 - registers its form
from private_distdd.data import table as _table  # noqa: F401 - registers its form
