"""From the arguments of a connect, and its other sources, to the parameters that libpq receives."""
