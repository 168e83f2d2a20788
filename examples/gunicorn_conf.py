"""gunicorn that loads an app once and forks: `gunicorn -c gunicorn_conf.py flask_app:app`."""

workers = 2
preload_app = True


def post_fork(_server, _worker):
    # The pool was made in the parent and is opened in each worker. It connects in the background:
    # a worker that waited here would hear no signal.
    from flask_app import pool  # noqa: PLC0415

    pool.open()


def worker_exit(_server, _worker):
    from flask_app import pool  # noqa: PLC0415

    pool.close()
