"""Flask on Azure Database for PostgreSQL: `flask --app flask_app run`."""

from flask import Flask, g

import azpg

app = Flask(__name__)

# Not opened here: this line may run before a server forks its workers (gunicorn's preload_app).
pool = azpg.create_pool(server="myserver", min_size=1, max_size=10, autocommit=True, open=False)


def connection():
    """Return the connection of this request, or of this command."""
    if "conn" not in g:
        pool.open()  # in this process; does nothing where it is open
        g.conn = pool.getconn()
    return g.conn


@app.teardown_appcontext
def give_back(_error):
    if "conn" in g:
        pool.putconn(g.pop("conn"))


@app.get("/")
def who():
    (user,) = connection().execute("select current_user").fetchone()
    return {"user": user}
