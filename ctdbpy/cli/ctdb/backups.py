# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` that replace all records of a database, or write them into a file."""

from __future__ import annotations

import errno
import time

from ctdbpy.cli.ctdb.databases import open_file
from ctdbpy.cli.ctdb.records import print_record
from ctdbpy.cli.ctdb.tool import Failed, Tool
from ctdbpy.client import backups, databases
from ctdbpy.client.backups import Backup, NoBackup
from ctdbpy.errors import CtdbpyError


def do_backupdb(tool: Tool, name: str, path: str) -> None:
    database = tool.database(name)
    with open_file(tool, database) as tdb:
        try:
            backups.write_backup(path, database.name, database.flags, database.db_id, tdb)
        except OSError as error:
            raise Failed(error.errno or 1, f"Failed to open file {path} for writing") from None
        except CtdbpyError:
            raise Failed(errno.EIO, f"Failed to collect records from DB {database.name}") from None
    print(f"Database backed up to {path}")


def do_restoredb(tool: Tool, path: str, name: str | None = None) -> None:
    backup = _read(path)
    target = name or backup.name
    print(f"Restoring database {target} from backup @ {_moment(backup)}")
    with tool.saying("Failed to read records", code=errno.EINVAL):
        backups.check_backup(backup)
    with tool.saying(f"Failed to attach to DB {target}"):
        database = databases.attach(tool.connection, target, backup.flags)
    databases.replace_records(tool.all_nodes, database, backups.read_buffers(backup), count=backup.records)
    print(f"Database {target} restored")


def do_dumpdbbackup(_tool: Tool, path: str) -> None:
    backup = _read(path)
    print(f"Dumping database {backup.name} from backup @ {_moment(backup)}")
    count = 0
    try:
        for buffer in backups.read_buffers(backup):
            for record in buffer.records:
                print_record(record.key, record.header, record.value)
                count += 1
    except CtdbpyError:
        raise Failed(1, "Failed to read records") from None
    print(f"Dumped {count} record(s)")


def do_wipedb(tool: Tool, name: str) -> None:
    database = tool.database(name)
    open_file(tool, database).close()
    databases.replace_records(tool.all_nodes, database)
    print(f"Database {database.name} wiped")


def _read(path: str) -> Backup:
    try:
        return backups.read_backup(path)
    except OSError as error:
        raise Failed(error.errno or 1, f"Failed to open file {path} for reading") from None
    except NoBackup as error:
        wanted, found = backups.VERSION, error.version
        raise Failed(errno.EINVAL, f"Wrong version of backup file, expected {wanted}, got {found}") from None


def _moment(backup: Backup) -> str:
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(backup.time_s))
