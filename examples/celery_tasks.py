"""Celery's tasks on Azure Database for PostgreSQL: `celery -A celery_tasks worker`."""

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

import azpg

app = Celery("celery_tasks")  # CELERY_BROKER_URL, CELERY_RESULT_BACKEND

# Made here, where the worker's parent and whoever sends a task come by, and opened nowhere yet. A
# process does one task at a time, so that one connection is enough.
pool = azpg.create_pool(server="myserver", min_size=1, max_size=1, open=False)


@worker_process_init.connect
def open_pool(**_signal):
    pool.open()  # without wait: Celery gives a new process four seconds


@worker_process_shutdown.connect
def close_pool(**_signal):
    pool.close()


@app.task
def who():
    with pool.connection() as conn:
        return conn.execute("select current_user, pg_backend_pid()").fetchone()
