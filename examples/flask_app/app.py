"""`flask --app examples.flask_app.app run` and `werk worker examples.flask_app.app:werk`.

Importing this connects to nothing: a worker imports it once and then forks its processes.
"""

import threading

from flask import Flask

from examples.flask_app.database import connect, create_tables, db, werk
from examples.flask_app.views import last_line, pages

__all__ = ["app", "create_app", "werk"]

_lock = threading.Lock()


def create_app() -> Flask:
    made = Flask(__name__)
    made.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://"
    made.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"creator": connect, "pool_pre_ping": True}
    made.config["MAX_CONTENT_LENGTH"] = 1_000_000
    db.init_app(made)
    made.register_blueprint(pages)
    made.jinja_env.filters["last_line"] = last_line

    @made.before_request
    def prepare() -> None:
        with _lock:
            if not made.extensions.get("tables"):
                create_tables()
                werk.connect()
                made.extensions["tables"] = True

    return made


app = create_app()
