"""Hands mails on to the mail server that SMTP names, as HOST:PORT."""

import json
import os
import smtplib
import sys
from email.message import EmailMessage

host, port = os.environ["SMTP"].rsplit(":", 1)

for line in sys.stdin:
    job = json.loads(line)
    try:
        mail = EmailMessage()
        mail["From"] = "shop@example.com"
        mail["To"] = job["payload"]["to"]
        mail["Subject"] = job["payload"]["subject"]
        mail["Message-ID"] = f"<{job['id']}@example.com>"
        mail.set_content(job["payload"]["text"])
    except (KeyError, TypeError, ValueError) as error:
        answer = {"id": job["id"], "ok": False, "error": f"no mail: {error!r}", "retry": False}
    else:
        try:
            with smtplib.SMTP(host, int(port), timeout=30) as server:
                server.send_message(mail)
            answer = {"id": job["id"], "ok": True, "result": mail["Message-ID"]}
        except smtplib.SMTPRecipientsRefused as error:
            answer = {"id": job["id"], "ok": False, "error": str(error), "retry": False}
        except (OSError, smtplib.SMTPException) as error:
            answer = {"id": job["id"], "ok": False, "error": repr(error)}
    print(json.dumps(answer), flush=True)
