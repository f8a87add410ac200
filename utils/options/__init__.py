"""The machinery behind config.py. Nothing here loads torch: a mistake on the command line is answered at once."""

from .kinds import (
    choice,
    flag,
    free,
    integer,
    name_in,
    number,
    of,
    only,
    optional,
    run_name,
    several,
    text,
    was,
    weighted_sum,
)
from .options import Options
