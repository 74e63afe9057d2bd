"""The package as people get it: installed, typed, and made from the protos as they are."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from servers import SOURCE, Server

PACKAGE = SOURCE / "client/python"


def run(*words, **options):
    ran = subprocess.run(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if ran.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, words))}:\n{ran.stdout}")
    return ran.stdout


class PackageTest(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.directory = pathlib.Path(made.name)

    def test_generated_modules_are_those_of_the_protos(self):
        run(PACKAGE / "generate.sh", self.directory)
        files = [path.relative_to(self.directory) for path in self.directory.rglob("*") if path.is_file()]
        self.assertGreater(len(files), 10)
        for file in files:
            self.assertEqual((PACKAGE / file).read_text(), (self.directory / file).read_text(), file)

    def test_types_are_strict(self):
        mypy = [sys.executable, "-m", "mypy", "--config-file", PACKAGE / "pyproject.toml", "--cache-dir", self.directory]
        run(*mypy, "-p", "dotmax", cwd=PACKAGE)
        run(*mypy, PACKAGE / "tests/typed.py", env={**os.environ, "MYPYPATH": str(PACKAGE)})

    def test_installed_without_a_network_it_runs_its_readme(self):
        # Building leaves files beside the sources.
        source = shutil.copytree(PACKAGE, self.directory / "source", ignore=shutil.ignore_patterns("__pycache__"))
        run(sys.executable, "-m", "venv", "--system-site-packages", self.directory / "env")
        bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        no_network = {**bare, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        pip = [self.directory / "env/bin/pip", "--disable-pip-version-check"]
        python = self.directory / "env/bin/python3"
        example = re.search(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)[1]
        version = re.search(r"project\(dotmax VERSION (\S+)", (SOURCE / "CMakeLists.txt").read_text())[1]
        show = "import dotmax, importlib.metadata as m; print(dotmax.__version__, m.version('dotmax'), dotmax.__file__)"
        with Server(f"--matrix={SOURCE}/deploy/sample/glove-10k.npy") as server:
            for what in (source, "wheel"):
                if what == "wheel":
                    run(*pip, "wheel", "--no-deps", source, "-w", self.directory, env=no_network)
                    run(*pip, "uninstall", "-y", "dotmax", env=bare)
                    what = next(self.directory.glob("dotmax-*.whl"))
                run(*pip, "install", what, env=no_network)
                shown = run(python, "-c", show, cwd=self.directory, env=bare).split()
                self.assertEqual(shown[:2], [version, version])
                self.assertTrue(shown[2].startswith(str(self.directory / "env")), shown)
                self.assertTrue(pathlib.Path(shown[2]).with_name("py.typed").exists())
                run(python, "-c", example.replace("localhost:50051", server.target), cwd=self.directory, env=bare)


if __name__ == "__main__":
    unittest.main()
