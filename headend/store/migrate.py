"""Brings a store's tables to this program's version."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from headend.database.engine import connect, writing
from headend.errors import SchemaMismatch

__all__ = ["migrate"]

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(url: str) -> None:
    """Create or upgrade the tables in one transaction; a store that is up to date is left alone.

    Two processes may call it at once: the second waits for the first. Raises ConfigError, StoreUnavailable,
    SchemaMismatch.
    """
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    engine = connect(url)
    try:
        with writing(engine, "migrating the store") as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaMismatch(
            f"the store was made by another version of this program ({error}): run the newest "
            f"version on it, or restore the backup taken before the upgrade"
        ) from error
    finally:
        engine.dispose()
