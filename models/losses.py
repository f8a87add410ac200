"""Loss functions, picked by name: getattr(losses, opt.criterion). Each takes scores [N, C] and targets [N] (int64)."""

from functools import partial

from torch.nn import functional as F

cross_entropy = F.cross_entropy
label_smoothing = partial(F.cross_entropy, label_smoothing=0.1)  # Szegedy et al. 2015, arXiv:1512.00567, section 7
