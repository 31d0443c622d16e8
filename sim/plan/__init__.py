"""Does a model fit on a machine, and how fast is it there, before anything is downloaded (``python -m sim plan``)."""
