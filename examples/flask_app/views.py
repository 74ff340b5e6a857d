"""Pages and their JSON."""

import uuid
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from flask import Blueprint, abort, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from examples.flask_app import tasks
from examples.flask_app.database import Rate, Report, db, werk
from pgwerk import Job, JobNotFound, Retry

pages = Blueprint("pages", __name__)

KEPT = timedelta(days=1)
RETRY = Retry(max=5, intervals=[5, 15, 60], no_retry=(tasks.BadSales,))


@pages.get("/")
def index() -> str:
    reports = db.session.scalars(db.select(Report).order_by(Report.created_at.desc()).limit(20)).all()
    rates = db.session.scalars(db.select(Rate).order_by(Rate.currency)).all()
    listed = [(report, job_of(report)) for report in reports]
    return render_template("index.html", listed=listed, rates=rates, token=uuid.uuid4())


@pages.post("/reports")
def create() -> ResponseReturnValue:
    report = Report(id=_token(), title=_text("title"), currency=_currency(), sales=_text("sales", 100_000))
    delay = request.form.get("delay", 0, type=int)
    if not 0 <= delay <= 3600:
        abort(400, "delay: from 0 to 3600 seconds")
    job = werk.enqueue(
        tasks.build, report.id, _conn=db.session, _key=f"report:{report.id}", _delay=delay, _retry=RETRY, _timeout=30
    )
    if job is None:
        # Submitted before. The transaction is as good as it was; there is only nothing to save.
        db.session.rollback()
        return redirect(url_for("pages.show", report_id=report.id), 303)
    report.job_id = job.id
    db.session.add(report)
    werk.enqueue(tasks.expire, report.id, _conn=db.session, _delay=KEPT)
    # The report and its jobs exist from here on. An error anywhere before leaves none of them.
    db.session.commit()
    return redirect(url_for("pages.show", report_id=report.id), 303)


@pages.get("/reports/<report_id>")
def show(report_id: str) -> str:
    report = db.get_or_404(Report, report_id)
    return render_template("report.html", report=report, job=job_of(report))


@pages.get("/reports/<report_id>.json")
def show_json(report_id: str) -> ResponseReturnValue:
    report = db.get_or_404(Report, report_id)
    job = job_of(report)
    return jsonify(id=report.id, title=report.title, totals=report.totals, job=_as_json(job))


@pages.post("/rates")
def set_rate() -> ResponseReturnValue:
    try:
        euros = Decimal(_text("euros", 20))
    except InvalidOperation:
        euros = Decimal("NaN")
    if not euros.is_finite() or euros <= 0:
        abort(400, "euros: a number above 0")
    db.session.merge(Rate(currency=_currency(), euros=euros))
    db.session.commit()
    return redirect(url_for("pages.index"), 303)


def job_of(report: Report) -> Job | None:
    """The job that builds a report; None when it was purged."""
    try:
        return werk.get_job(report.job_id) if report.job_id else None
    except JobNotFound:
        return None


def _as_json(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {"id": job.id, "status": job.status.value, "attempts": job.attempts, "error": last_line(job.error)}


def last_line(error: str | None) -> str | None:
    """What went wrong, without the traceback."""
    return error.strip().splitlines()[-1] if error else None


def _text(name: str, longest: int = 200) -> str:
    text = request.form.get(name, "").strip()
    if not text or len(text) > longest or "\0" in text:
        abort(400, f"{name}: from 1 to {longest} characters")
    return text


def _currency() -> str:
    text = _text("currency", 3).upper()
    if len(text) != 3 or not text.isascii() or not text.isalpha():
        abort(400, "currency: three letters, like EUR")
    return text


def _token() -> str:
    try:
        return str(uuid.UUID(request.form.get("token", "")))
    except ValueError:
        abort(400, "token: reload the form")
