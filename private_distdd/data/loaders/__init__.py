"""One file a kind of source; each registers what it loads."""

from private_distdd.data.loaders import csv_file as _csv_file  # noqa: F401 - registers itself, as all of these
from private_distdd.data.loaders import digits as _digits  # noqa: F401
from private_distdd.data.loaders import folder as _folder  # noqa: F401
from private_distdd.data.loaders import npz as _npz  # noqa: F401
from private_distdd.data.loaders import torchvision_sets as _torchvision_sets  # noqa: F401
from private_distdd.data.loaders import toy_tables as _toy_tables  # noqa: F401
