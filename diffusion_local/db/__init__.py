"""The database: connections, transactions, migrations, row mapping, row access, and all dialect-specific SQL."""

import sys

# sqlite-utils loads pandas and numpy if they are installed, for conversions that nothing here uses. They would take
# half of the time in which a command or a worker starts, so they are hidden from it while it is imported.
_hidden = [name for name in ("pandas", "numpy") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type]  # an import of None fails with ImportError
try:
    import sqlite_utils  # noqa: F401
finally:
    for _name in _hidden:
        del sys.modules[_name]
