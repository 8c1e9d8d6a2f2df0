"""Which language a file is in, told by its name alone: linguist's names in lower case.

Holds the table; an extension that several languages share (.h, .m, .pl, .ts) goes to the one that
most files of that extension are in.
"""

import difflib

from hugcoder.refusal import Refusal

EXTENSIONS: dict[str, str] = {
    "assembly": "asm s",
    "c": "c h",
    "c#": "cs csx",
    "c++": "cc cpp cxx c++ hh hpp hxx h++ ipp tpp inl",
    "clojure": "clj cljs cljc edn",
    "cmake": "cmake",
    "css": "css",
    "cuda": "cu cuh",
    "dart": "dart",
    "dockerfile": "dockerfile",
    "elixir": "ex exs",
    "erlang": "erl hrl",
    "f#": "fs fsi fsx",
    "fortran": "f f03 f08 f77 f90 f95 for",
    "go": "go",
    "graphql": "graphql gql",
    "groovy": "groovy gradle",
    "haskell": "hs",
    "hcl": "hcl tf tfvars",
    "html": "html htm xhtml",
    "ini": "ini cfg",
    "java": "java",
    "javascript": "js cjs mjs jsx",
    "json": "json",
    "julia": "jl",
    "kotlin": "kt kts",
    "less": "less",
    "lua": "lua",
    "makefile": "mk mak",
    "markdown": "md markdown",
    "matlab": "matlab",
    "nix": "nix",
    "objective-c": "m mm",
    "ocaml": "ml mli",
    "pascal": "pas dpr",
    "perl": "pl pm",
    "php": "php phtml",
    "powershell": "ps1 psm1 psd1",
    "protocol buffer": "proto",
    "python": "py pyi pyw",
    "cython": "pyx pxd pxi",
    "r": "r",
    "restructuredtext": "rst",
    "roff": "roff man",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "scala": "scala sbt",
    "scheme": "scm ss",
    "scss": "scss sass",
    "shell": "sh bash zsh ksh",
    "solidity": "sol",
    "sql": "sql",
    "svelte": "svelte",
    "svg": "svg",
    "swift": "swift",
    "systemverilog": "sv svh",
    "tcl": "tcl",
    "tex": "tex sty cls bib",
    "text": "txt",
    "toml": "toml",
    "typescript": "ts mts cts tsx",
    "verilog": "v vh",
    "vhdl": "vhd vhdl",
    "vim script": "vim",
    "vue": "vue",
    "xml": "xml xsd xsl xslt",
    "yaml": "yaml yml",
    "zig": "zig",
}
# linguist's types data and markup as far as they hold data; the table has no csv at all
DATA_LIKE = {"html", "ini", "json", "svg", "text", "toml", "xml", "yaml"}
FILENAMES: dict[str, str] = {
    "cmakelists.txt": "cmake",
    "dockerfile": "dockerfile",
    "containerfile": "dockerfile",
    "gemfile": "ruby",
    "rakefile": "ruby",
    "gnumakefile": "makefile",
    "makefile": "makefile",
    "sconstruct": "python",
    "sconscript": "python",
    "jenkinsfile": "groovy",
    ".bashrc": "shell",
    ".profile": "shell",
    ".zshrc": "shell",
}
LANGUAGE_OF_EXTENSION = {
    extension: language for language, words in EXTENSIONS.items() for extension in words.split()
}


def language_of(path: str) -> str:
    """The language of a file of that name, or "" when the table does not know it."""
    name = path.rsplit("/", 1)[-1].lower()
    if name in FILENAMES:
        return FILENAMES[name]
    _, dot, extension = name.rpartition(".")
    return LANGUAGE_OF_EXTENSION.get(extension, "") if dot else ""


def check_languages(languages: list[str]) -> None:
    """Raises: Refusal for a name that is not in the table."""
    for language in languages:
        if language not in EXTENSIONS:
            close = difflib.get_close_matches(language.lower(), EXTENSIONS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(EXTENSIONS)}."
            raise Refusal(f"languages: {language!r} is not a known language; {hint}")
