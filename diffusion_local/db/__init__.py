"""The database: connections, transactions, migrations, row mapping, row access, and all dialect-specific SQL."""

from diffusion_local.lazy_imports import hidden_imports

# sqlite-utils loads pandas and numpy if they are installed, for conversions that nothing here uses. They would take
# half of the time in which a command or a worker starts.
with hidden_imports("pandas", "numpy"):
    import sqlite_utils  # noqa: F401
