"""`headend` with `feed verify` and `report collection`, as a program."""

from headend.cli import feed_verify, main, report

groups = {group.name: group.typer_instance for group in main.app.registered_groups}
feed = groups["feed"]
assert feed is not None
if not any(command.name == "verify" for command in feed.registered_commands):
    feed.command("verify")(feed_verify.verify)
if "report" not in groups:
    report.register(main.app)
main.main()
