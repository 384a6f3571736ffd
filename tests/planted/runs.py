"""Faults of run folders: what is verified, what a kill leaves, who may write, what is followed."""

from __future__ import annotations

from planted.mutant import Mutant, of

MUTANTS: list[Mutant] = [
    *of(
        "checkpoints",
        "fastdarts/runs/checkpoints.py",
        "runs_checkpoints, runs_faults",
        ("the tensors' digest not asked", "if hashlib.sha256(data).hexdigest() != sha256:", "if len(data) != size:"),
        ("the seal not asked", "if seal != digest(header):", "if seal is None:"),
        ("of another run", 'if header["config_sha256"] != config_digest:', 'if not header["config_sha256"]:'),
        ("the records' digest not asked", "if sha256 != records.metrics_sha256:", "if not sha256:"),
        ("all are kept", "        drop_folder(locate(root, step))", "        locate(root, step)"),
    ),
    *of(
        "durable",
        "fastdarts/runs/durable.py",
        "runs_records",
        ("the old checkpoint not put back after a kill", "            _put_back(entry)", "            pass"),
    ),
    *of(
        "records",
        "fastdarts/runs/metrics.py",
        "runs_records, runs_faults",
        (
            "a torn line counts",
            "    except UserError:\n        return start\n    return end",
            "    except UserError:\n        return end\n    return end",
        ),
        ("a torn line is not cut off", "        truncate(path, _complete(data))\n", ""),
        (
            "a write that failed leaves its part",
            "            os.ftruncate(fd, size)\n            raise",
            "            raise",
        ),
        ("records not flushed", "                os.fsync(fd)\n        except", "                pass\n        except"),
    ),
    *of(
        "records",
        "fastdarts/runs/metrics.py",
        "runs_seal",
        ("a beginning of any bytes", "hashlib.sha256(data[:size]).hexdigest() == sha256)", "len(sha256) >= 0)"),
    ),
    *of(
        "lock",
        "fastdarts/runs/lock.py",
        "runs_faults, runs_folder, runs_links",
        ("shared", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        ("held by a forked worker", "        _release_in_forked_children()\n", ""),
    ),
    *of(
        "inside",
        "fastdarts/runs/inside.py",
        "runs_links, runs_folder",
        ("links are followed", "entry.stat(follow_symlinks=False)", "entry.stat()"),
        (
            "hard links are written through",
            "elif writing and found.st_nlink > 1:",
            "elif writing and found.st_nlink > 2:",
        ),
        ("a name that leads outside", 'if not parts or name.startswith("/") or ".." in parts or', "if not parts or"),
    ),
    *of(
        "seal",
        "fastdarts/runs/seal.py",
        "runs_seal",
        ("not asked", "elif seal != _seal(value, owner, name):", "elif not seal:"),
        ("of another run", "return digest([owner, str", "return digest([str"),
        ("of another name", "str(PurePosixPath(name)), value])", "value])"),
    ),
    *of(
        "folder",
        "fastdarts/runs/folder.py",
        "runs_folder, runs_checkpoints, runs_links, runs_records, runs_seal, runs_faults",
        (
            "later checkpoints stay after a rewind",
            "                    drop_folder(checkpoints.locate(self.path, later))",
            "                    pass",
        ),
        ("a checkpoint before the newest", "if step < newest:", "if step < 0:"),
        (
            "config.json before the folder is whole",
            '                replace_file(run.path / METRICS, b"")\n                replace_file(run.path / CONFIG, text.encode("ascii"))',
            '                replace_file(run.path / CONFIG, text.encode("ascii"))\n                replace_file(run.path / METRICS, b"")',
        ),
    ),
    *of(
        "generators",
        "fastdarts/runs/generators.py",
        "runs_continue",
        ("Python's not restored", "    random.setstate((version, tuple(words.tolist()), gauss))\n", ""),
        (
            "numpy's not restored",
            "    numpy.random.set_state((kind, keys.numpy().astype(numpy.uint32), position, has_gauss, cached))\n",
            "",
        ),
        ("numpy's second normal forgotten", "position, has_gauss, cached))\n", "position, 0, 0.0))\n"),
        ("torch's not restored", '    torch.set_rng_state(state["torch"])\n', ""),
    ),
    *of(
        "packing",
        "fastdarts/runs/packing.py",
        "runs_packing, runs_continue",
        ("no snapshot", 'dense.to("cpu", copy=True,', 'dense.to("cpu",'),
        (
            "float32 for floats",
            '        return {"float": _hex(value)}',
            '        return {"float": _hex(struct.unpack("f", struct.pack("f", value))[0])}',
        ),
        (
            "tuples come back as lists",
            "return tuple(unpack(tensors, item) for item in body)",
            "return [unpack(tensors, item) for item in body]",
        ),
        ("the lowest bits of a NaN", "f\"nan:{struct.pack('>d', value).hex()}\"", '"nan"'),
    ),
    *of(
        "events",
        "fastdarts/runs/events.py",
        "tensorboard, runs_folder, runs_checkpoints",
        ("a later file stays", "                path.unlink()\n", "                pass\n"),
    ),
]
