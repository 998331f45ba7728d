"""setup/install: the table of owners and modes, a second run that changes nothing, what it never touches."""

import grp
import os
import pwd
import re
import shutil
import subprocess

import pytest

from apus import BUILD, ROOT

SPLITS = [str(number) for number in range(23)]


def table():
    """(kind, mode, owner, group, path) of setup/table."""
    for line in (ROOT / "setup" / "table").read_text().splitlines():
        if line and not line.startswith("#"):
            kind, mode, owner, group, path = line.split()
            yield kind, int(mode, 8), owner, group, path


def install(home, rootless=True, status=0):
    environment = {key: value for key, value in os.environ.items() if key != "ROOTLESS"}
    if rootless:
        environment["ROOTLESS"] = "1"
    done = subprocess.run(
        [str(ROOT / "setup" / "install"), str(home), str(BUILD)], env=environment, capture_output=True, text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def state(home):
    """Everything that a run could have changed, times included."""
    found = {}
    for top, directories, files in os.walk(home):
        for name in [".", *directories, *files]:
            path = os.path.join(top, name)
            status = os.lstat(path)
            found[path] = (
                status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns,
                status.st_ctime_ns,
            )
    return found


def check(path, mode, owner, group):
    status = os.stat(path)
    assert oct(status.st_mode & 0o7777) == oct(mode), path
    if owner is not None:
        assert pwd.getpwuid(status.st_uid).pw_name == owner, path
        assert grp.getgrgid(status.st_gid).gr_name == group, path


@pytest.fixture(params=["rootless", pytest.param("root", marks=pytest.mark.skipif(os.getuid() != 0, reason="not root"))])
def rootless(request):
    return request.param == "rootless"


def test_every_row_of_the_table(tmp_path, rootless):
    home = tmp_path / "with a blank" / "home"
    install(home, rootless)
    for kind, mode, owner, group, path in table():
        if rootless:
            owner = group = None
            mode &= 0o2777 if kind != "program" or not mode & 0o4000 else 0
            mode = mode or 0o755
        if kind == "program":
            names = [path] if path != "*" else []
            paths = [home / "bin" / name for name in names]
        elif kind == "split":
            paths = [home / path, *(home / path / s for s in SPLITS)]
        else:
            paths = [home / path]
        for one in paths:
            check(one, mode, owner, group)
    assert (home / "queue/lock/tcpto").read_bytes() == bytes(1024)
    assert (home / "queue/lock/trigger").is_fifo()
    for name in ("sendmail", "mailq", "newaliases"):
        assert os.readlink(home / "bin" / name) == "apus-sendmail"
    assert "@HOME@" not in (home / "service/send/run").read_text()


def test_second_run_changes_nothing(tmp_path, rootless):
    home = tmp_path / "home"
    install(home, rootless)
    (home / "queue/mess/3/26").write_text("a message\n")
    before = state(home)
    install(home, rootless)
    assert state(home) == before


def test_record_in_every_program(tmp_path):
    """Sources/Installation: home, `rootless`, uid, each ended by NUL."""
    home = tmp_path / "home"
    install(home)
    record = b"%s\0rootless\0%d\0\0" % (str(home).encode(), os.getuid())
    programs = [path for path in (home / "bin").iterdir() if not path.is_symlink()]
    assert len(programs) >= 15
    for path in programs:
        assert record in path.read_bytes(), path


@pytest.mark.skipif(os.getuid() != 0, reason="not root")
def test_record_of_root(tmp_path):
    home = tmp_path / "home"
    install(home, rootless=False)
    ids = [pwd.getpwnam(f"apus{letter}").pw_uid for letter in "adlpqrs"]
    ids += [grp.getgrnam(name).gr_gid for name in ("apus", "apusnofiles")]
    record = b"\0".join([str(home).encode(), b"root", *(b"%d" % number for number in ids)]) + b"\0\0"
    assert record in (home / "bin/apus-queue").read_bytes()
    install(home, rootless=True, status=111)  # a queue with users of its own cannot become one user's


def test_control_files_aliases_and_messages_stay(tmp_path):
    home = tmp_path / "home"
    (home / "control").mkdir(parents=True)
    (home / "control/rcpthosts").write_text("mine.test\n")
    install(home)
    assert (home / "control/rcpthosts").read_text() == "mine.test\n"
    (home / "control/me").write_text("mine.test\n")
    (home / "control/locals").unlink()
    (home / "alias/.qmail-root").write_text("&me@mine.test\n")
    (home / "alias/Maildir/new/1.2.host").write_text("mail\n")
    install(home)
    assert (home / "control/me").read_text() == "mine.test\n"
    assert not (home / "control/locals").exists(), "me is there, so the initial set is not written again"
    assert (home / "alias/.qmail-root").read_text() == "&me@mine.test\n"
    assert (home / "alias/Maildir/new/1.2.host").read_text() == "mail\n"


def test_wrong_mode_is_put_right_and_program_replaced(tmp_path):
    home = tmp_path / "home"
    install(home)
    (home / "queue/mess/7").chmod(0o777)
    good = (home / "bin/apus-clean").read_bytes()
    inode = (home / "bin/apus-clean").stat().st_ino
    (home / "bin/apus-clean").write_bytes(b"old")
    assert "bin/apus-clean" in install(home)
    check(home / "queue/mess/7", 0o750, None, None)
    assert (home / "bin/apus-clean").read_bytes() == good
    assert (home / "bin/apus-clean").stat().st_ino != inode, "replaced by rename: running programs keep theirs"


def test_changed_run_script_is_kept(tmp_path):
    home = tmp_path / "home"
    install(home)
    run = home / "service/send/run"
    ours = run.read_text()
    run.write_text("#!/bin/sh\n# mine\n")
    assert "run.new" in install(home)
    assert run.read_text() == "#!/bin/sh\n# mine\n"
    assert (home / "service/send/run.new").read_text() == ours
    before = state(home)
    install(home)
    assert state(home) == before


@pytest.mark.parametrize("name", ["quo'te", "a%b", "new\nline"])
def test_names_that_cannot_stand_in_a_script_are_refused(tmp_path, name):
    assert re.search("cannot use", install(tmp_path / name, status=111))
    assert not (tmp_path / name).exists()


def test_make_honours_home_only_on_the_command_line(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("no make")
    say = ["make", "-n", "install"]
    quiet = dict(os.environ, HOME=str(tmp_path))
    quiet.pop("MAKEFLAGS", None)
    quiet.pop("MAKEOVERRIDES", None)
    run = lambda *more: subprocess.run([*say, *more], cwd=ROOT, env=quiet, capture_output=True, text=True).stdout
    assert 'setup/install "/var/apus"' in run()
    assert f'setup/install "{tmp_path}/x y"' in run(f"HOME={tmp_path}/x y")


def test_no_program_looks_for_libraries_beside_itself(tmp_path):
    """All but getpw are static; getpw takes its C library from the system, not from a folder of ours."""
    home = tmp_path / "home"
    install(home)
    for program in (home / "bin").glob("apus-*"):
        listing = subprocess.run(["readelf", "-d", program], check=True, capture_output=True, text=True).stdout
        assert "RPATH" not in listing and "RUNPATH" not in listing, program.name
        assert ("NEEDED" in listing) == (program.name == "apus-getpw"), program.name
