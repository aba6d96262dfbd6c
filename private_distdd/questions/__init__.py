"""Questions: what a client may be asked, a file each; a query names one, and never carries code."""

from private_distdd.questions import class_counts as _class_counts  # noqa: F401 - each registers itself
from private_distdd.questions import class_distillations as _class_distillations  # noqa: F401
from private_distdd.questions import class_embeddings as _class_embeddings  # noqa: F401
from private_distdd.questions import class_examples as _class_examples  # noqa: F401
from private_distdd.questions import class_gradients as _class_gradients  # noqa: F401
from private_distdd.questions import class_gradients_at_seeds as _class_gradients_at_seeds  # noqa: F401
from private_distdd.questions import local_training as _local_training  # noqa: F401
from private_distdd.questions import local_trainings as _local_trainings  # noqa: F401
