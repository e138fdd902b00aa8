"""The database: connections, transactions, migrations, row mapping, row access, and all dialect-specific SQL."""

from diffusion_local.lazy_imports import hidden_imports

# sqlite-utils imports pandas and numpy if they are installed, for conversions that nothing here uses. They would take
# half of the startup time of a command or a worker.
with hidden_imports("pandas", "numpy"):
    import sqlite_utils  # noqa: F401
