"""A thousand ways in which a user's data can be wrong, each from a seed.

A mutation changes one thing of a good manifest. It returns words of which the error, or the list of
what was left out, must hold one; none where the input may still be good.
"""

import io
import json
import random
import zipfile
import zlib

import numpy as np
from data.manifest import file_mutations as of_files
from data.manifest import line_mutations as of_lines
from data.manifest.sample_files import files, write_sample


class Ground:
    """A folder with good files, and the lines of a manifest about them."""

    def __init__(self, folder):
        self.folder = folder
        self.lines = write_sample(folder)
        self.good = files(folder)
        self.marker = folder / "opened"
        bomb = io.BytesIO()
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
            head = io.BytesIO()
            shape = {"descr": "|u1", "fortran_order": False, "shape": (700, 700, 700)}
            np.lib.format.write_array_header_1_0(head, shape)
            with packed.open("voxel.npy", "w", force_zip64=True) as member:
                member.write(head.getvalue())
                for _ in range(64):
                    member.write(bytes(700**3 // 64))
        self.bomb = bomb.getvalue()
        compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        self.gzipped = compressor.compress(bytes(2**26)) + compressor.flush()

    def case(self, seed):
        """Makes case ``seed``: its manifest, and the words."""
        chance = random.Random(seed)
        folder = self.folder / f"case{seed}"
        folder.mkdir()
        lines = json.loads(json.dumps(self.lines))
        mutation = MUTATIONS[seed % len(MUTATIONS)]
        words = mutation(self, chance, folder, lines)
        path = self.folder / f"case{seed}.jsonl"
        if isinstance(lines, list):
            raw = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
            path.write_bytes(b"\n".join(raw))
        return path, words


MUTATIONS = [
    *(
        of_files.cut_short,
        of_files.cut_short,
        of_files.emptied,
        of_files.bytes_changed,
        of_files.bytes_changed,
        of_files.bytes_changed,
        of_files.noise,
    ),
    *(
        of_files.of_another_kind,
        of_files.a_folder,
        of_files.a_pipe,
        of_files.a_link,
        of_files.a_pickle,
        of_files.not_finite,
        of_files.a_lying_header,
    ),
    *(
        of_files.a_lying_header,
        of_files.a_bomb,
        of_files.of_another_shape,
        of_lines.a_wrong_type,
        of_lines.a_wrong_type,
        of_lines.a_broken_line,
    ),
    *(
        of_lines.a_path_that_leads_out,
        of_lines.a_path_to_nothing,
        of_lines.an_id_in_two_splits,
        of_lines.an_unknown_split,
    ),
    *(
        of_lines.an_unknown_key,
        of_lines.no_lines,
        of_lines.strange_but_right,
        of_lines.a_broken_shard,
    ),
]
