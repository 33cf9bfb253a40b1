"""``deepprune push``: upload an exported judge to Hugging Face's hub."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence

from deepprune.config.judges import export_folder
from deepprune.core.errors import InputError
from deepprune.judge.saved import check_files, read_record


def main(argv: Sequence[str]) -> None:
    """Upload the export with its model card, as one commit.

    Raises:
        InputError: If the folder is no whole export, or the hub refuses it.
    """
    parser = ArgumentParser(prog="deepprune push", description=__doc__)
    parser.add_argument("judge", help="an export, or the folder of its run: runs/DIR")
    parser.add_argument("repo", help="where to: USER/NAME")
    parser.add_argument("--private", action="store_true", help="if the repository is new")
    given = parser.parse_args(argv)
    if (folder := export_folder(given.judge)) is None:
        raise InputError(f"push needs an exported judge, got {given.judge}: give runs/DIR.")
    record = read_record(folder)
    check_files(folder, record)

    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(given.repo, private=given.private, exist_ok=True)
        done = hub.upload_folder(
            repo_id=given.repo, folder_path=folder, commit_message=f"Judge {record.name}"
        )
    except (OSError, ValueError, HTTPError) as error:  # the hub's own are OSErrors or ValueErrors
        raise InputError(
            f"{given.repo} was not uploaded: {error}; log in with `hf auth login`, and check the "
            "name of the repository."
        ) from error
    print(f"uploaded: {done}")
