#!/bin/sh
# Installs the Debian packages that a file lists and that are missing.
set -eu
missing=""
for p in $(cat "$1"); do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q "install ok installed" || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
  echo "missing Debian packages:$missing; as root: apt-get install$missing" >&2
  exit 2
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# The cluster that postgresql's package would start by itself is not ours: tests start their own.
mkdir -p /etc/postgresql-common/createcluster.d
[ -e /etc/postgresql-common/createcluster.d/segue.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/segue.conf
apt-get install -y -qq --no-install-recommends $missing >/dev/null
