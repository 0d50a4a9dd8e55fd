# The Python environment in .venv with this work tree installed; `source` it from the repository's root.
#
#   environment EXTRA...   brings .venv up to date with the extras of pyproject.toml; silent and quick where it is

log=.venv/install.log

say() { printf 'mesh: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

environment() {
	python_environment
	exec 9>.venv/lock
	if command -v flock >/dev/null && ! flock -n 9; then
		say "waiting for another installation into .venv"
		flock 9
	fi
	data_plane
	libraries "$@"
	exec 9>&-
}

python_environment() {
	if [ -e .venv/bin/python ]; then
		is_recent .venv/bin/python ||
			die "the Python of .venv does not run or is older than 3.11: remove .venv and start again"
		return
	fi
	local python
	python=$(recent_python) || die "mesh needs Python 3.11 or newer, and there is none on PATH." \
		"Install one (Debian: apt install python3 python3-venv), or name it: PYTHON=/path/to/python3.12 $0"
	say "the first start here takes some minutes; .venv/install.log has the details"
	say "making an environment in .venv with $("$python" --version)"
	"$python" -m venv .venv >&2 || {
		rm -rf .venv
		die "$python cannot make environments (Debian: apt install python3-venv)"
	}
}

recent_python() {
	local candidate
	for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
		if is_recent "$candidate"; then
			command -v "$candidate"
			return
		fi
	done
	return 1
}

is_recent() {
	"$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

data_plane() {
	local now
	now=$(find dataplane/Cargo.toml dataplane/Cargo.lock dataplane/src -type f -print0 | sort -z | xargs -0 sha256sum |
		cat - <(pwd) | sha256sum)
	if is_stamped data-plane "$now" && compgen -G 'src/mesh/dataplane/_dataplane*.so' >/dev/null; then
		return
	fi
	command -v cargo >/dev/null || die "the data plane is written in Rust, and there is no \`cargo\` on PATH:" \
		"install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' dataplane/Cargo.toml) or newer, for instance with rustup"
	if [ ! -x .venv/bin/maturin ]; then
		step "installing the build tool" pip_install "$(sed -n 's/^requires = \["\(maturin[^"]*\)"\]/\1/p' pyproject.toml)"
	fi
	step "compiling the data plane (the first time takes a minute or two)" \
		env VIRTUAL_ENV="$PWD/.venv" .venv/bin/maturin develop --release --skip-install
	stamp data-plane "$now"
}

libraries() {
	local extra now missing=()
	now=$(cat - pyproject.toml tools/constraints.txt <<<"$PWD" | sha256sum)
	for extra in "$@"; do
		is_stamped "$extra" "$now" || missing+=("$extra")
	done
	if [ ${#missing[@]} = 0 ]; then
		return
	fi
	local list
	list=$(IFS=,; echo "${missing[*]}")
	step "installing mesh and its libraries ($list)" pip_install --no-build-isolation --editable ".[$list]"
	for extra in "${missing[@]}"; do
		stamp "$extra" "$now"
	done
	# Extras contain others: what the tests need includes what the examples need.
	if [[ " ${missing[*]} " == *" test "* ]]; then
		stamp examples "$now"
	fi
}

pip_install() {
	# pip calls maturin by its name.
	PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint tools/constraints.txt "$@"
}

is_stamped() { [ "$(cat ".venv/stamp-$1" 2>/dev/null)" = "$2" ]; }
stamp() { printf '%s\n' "$2" >".venv/stamp-$1"; }

# One line for one step, its output in the log.
step() {
	local what=$1 start=$SECONDS
	shift
	printf 'mesh: %s ... ' "$what" >&2
	if "$@" >>$log 2>&1 </dev/null; then
		printf '%d s\n' $((SECONDS - start)) >&2
	else
		printf 'failed\n\n' >&2
		tail -n 20 $log >&2
		printf '\n' >&2
		die "that step failed; the whole output is in $log." \
			"Where it could not reach a package index, set pip's or cargo's own settings and start again."
	fi
}
