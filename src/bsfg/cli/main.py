"""The program ``bsfg``: its nouns, and the one place where an error becomes a line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click

from bsfg import __version__
from bsfg.cli import render
from bsfg.cli.lazy import LazyGroup, Noun
from bsfg.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, BsfgError, Code

NOUNS: Final = {
    "serve": Noun("bsfg.cli.serve", "Run this zone's gateway in the foreground."),
    "status": Noun("bsfg.cli.status", "One screen: peers, links, exports, problems."),
    "config": Noun("bsfg.cli.config", "Check, show and reload the configuration."),
    "cert": Noun("bsfg.cli.cert", "Inspect certificates; make development ones."),
    "peer": Noun("bsfg.cli.peer", "Peers: reachable, authenticated, authorized, flowing."),
    "stream": Noun("bsfg.cli.stream", "Streams: names, epochs, sequences, durability."),
    "consumer": Noun("bsfg.cli.consumer", "A local application's view of a stream."),
    "append": Noun("bsfg.cli.append", "Append facts to a local stream."),
    "read": Noun("bsfg.cli.read", "Read facts as JSON lines; acknowledges nothing."),
    "fetch": Noun("bsfg.cli.fetch", "One round of a link now."),
    "artifact": Noun("bsfg.cli.artifact", "Artifacts: put, fetch, list, retry, clean up."),
    "verify": Noun("bsfg.cli.verify", "Compare what we hold of a link with what the peer has."),
    "repair": Noun("bsfg.cli.repair", "Fetch again what verify found damaged or missing."),
    "drill": Noun("bsfg.cli.drill", "A drill with evidence; it restores itself."),
    "cursor": Noun("bsfg.cli.cursor", "How far each link is."),
    "admin": Noun("bsfg.cli.admin", "Partition a peer for a time; reconcile it."),
    "bringup": Noun("bsfg.cli.bringup", "The runbook: check a relationship, step by step, halting where it halts."),
    "handoff": Noun("bsfg.cli.handoff", "Handoff records: verify, merge, list, show."),
    "audit": Noun("bsfg.cli.audit", "Whether the audit log is whole."),
    "top": Noun("bsfg.cli.top", "Links and exports, live."),
    "bundle": Noun("bsfg.cli.bundle", "An archive for support, without secrets."),
    "page": Noun("bsfg.cli.page", "The address of the operator page, for one login."),
    "lab": Noun("bsfg.cli.lab", "Two zones on this machine, up and down."),
    "demo": Noun("bsfg.cli.demo", "A lab, facts, drills: the main job in one command."),
}


class Program(LazyGroup):
    """The root group; a reader that stops reading our output ends a command quietly, whatever it was doing."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            render.discard_output()
            return EXIT_DONE
        return result


program: Final = Program(
    name="bsfg",
    nouns=NOUNS,
    help="Exchange facts between autonomous zones: authenticated, authorized, in order, once.",
    epilog="Every command takes --home, --output text|json and --help.",
)

click.version_option(__version__, prog_name="bsfg", message="%(prog)s %(version)s")(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (contract, section 6). No exception leaves it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    output = output_wanted(given)
    render.prepare_terminal()
    try:
        status = program.main(given, prog_name="bsfg", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        render.usage(error.format_message())
        return EXIT_USAGE
    except click.ClickException as error:
        return render.show_error(usage_error(error), output)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BsfgError as error:
        return render.show_error(error, output)
    except Exception as error:
        # An operator gets a sentence, never a traceback, whatever was forgotten.
        return render.show_error(unexpected(error), output)
    return status if isinstance(status, int) else EXIT_DONE


def output_wanted(arguments: Sequence[str]) -> str:
    """What ``--output`` asks for, read without click so that its own errors obey it too."""
    wanted = "text"
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--output":
            wanted = next(iter(arguments[index + 1 : index + 2]), wanted)
        elif argument.startswith("--output="):
            wanted = argument.removeprefix("--output=")
    return wanted


def usage_error(error: click.ClickException) -> BsfgError:
    """What click found wrong with the command line, as an error of ours: exit 2 and where to look."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{context.command_path} --help" if context else ""
    return BsfgError(Code.INVALID_REQUEST, error.format_message(), hint=hint)


def unexpected(error: Exception) -> BsfgError:
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return BsfgError(Code.INTERNAL, f"unexpected error: {cause}", hint="this is a defect of bsfg; please report it")


if __name__ == "__main__":
    sys.exit(main())
