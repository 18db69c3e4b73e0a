"""Links from a page to the source, which the site does not hold: their path takes the place of the link."""

import os
import re

LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]*)\)")


def on_page_markdown(markdown, page, config, **_):
    docs, root = config.docs_dir, os.path.dirname(config.config_file_path)
    folder = os.path.dirname(page.file.abs_src_path)

    def path_in_the_source(match):
        target = os.path.normpath(os.path.join(folder, match[2]))
        path = os.path.relpath(target, root)
        if target.startswith(docs) or path.startswith("..") or not os.path.exists(target):
            return match[0]
        return f"`{path}`" if match[1] in path else f"{match[1]} (`{path}`)"

    return LINK.sub(path_in_the_source, markdown)
