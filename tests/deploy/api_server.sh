#!/bin/sh
# Build kube-apiserver and kube-controller-manager for tests/deploy/test_api_server.py, from the last source of them that
# Debian has whole: Kubernetes 1.20, in Debian 12. Needs root; takes some ten minutes once, on two cores.
set -eu
root=${DVI_KUBERNETES:?a folder to build in}
[ -x "$root/bin/kube-apiserver" ] && [ -x "$root/bin/kube-controller-manager" ] && exit 0
mkdir -p "$root/bin" "$root/lists/partial" "$root/cache/archives/partial" "$root/go/src/k8s.io"

apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    dpkg-dev etcd-server golang-go golang-github-modern-go-reflect2-dev openssl >/dev/null

# Sources, from where this machine has its packages, and known to no other apt than this one.
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Component: main' | sort -u | head -n 1)
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive bookworm main" >"$root/sources.list"
cd "$root"
set -- -qq -o Dir::Etc::SourceList="$root/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists="$root/lists" -o Dir::Cache="$root/cache" -o APT::Sandbox::User=root
apt-get "$@" update
apt-get "$@" source --download-only kubernetes
rm -rf source
dpkg-source --extract kubernetes_1.20*.dsc source >/dev/null

# What is vendored reads the runtime's maps as they were before Go 1.18, and crashes.
rm -rf source/vendor/github.com/modern-go/reflect2
cp -R /usr/share/gocode/src/github.com/modern-go/reflect2 source/vendor/github.com/modern-go/
# The names in the singular that today's clients want came with 1.27.
sed -i 's/^\t\tapiResource.Kind = resourceKind$/&\n\t\tapiResource.SingularName = strings.ToLower(resourceKind)/' \
    source/staging/src/k8s.io/apiserver/pkg/endpoints/installer.go

export GO111MODULE=off CGO_ENABLED=0 GOPATH="$root/go" GOCACHE="$root/gocache" HOME="$root"
ln -sfn "$root/source" go/src/k8s.io/kubernetes
cd go/src/k8s.io/kubernetes
vendor=k8s.io/kubernetes/vendor/k8s.io
go build -o "$root/bin/openapi-gen" "$vendor/kube-openapi/cmd/openapi-gen"
tagged=$(grep -rlE '^// ?\+k8s:openapi-gen=' --include='*.go' pkg staging/src/k8s.io cmd | xargs -n 1 dirname | sort -u \
    | grep -v -e sample -e code-generator | sed -e "s#^staging/src/k8s.io#$vendor#" -e 's#^\(pkg\|cmd\)/#k8s.io/kubernetes/\1/#')
"$root/bin/openapi-gen" --go-header-file hack/boilerplate/boilerplate.generatego.txt \
    --input-dirs "$(echo "$tagged" | paste -sd,)" --output-package k8s.io/kubernetes/pkg/generated/openapi \
    --output-file-base zz_generated.openapi --report-filename "$root/violations"

go build -ldflags "-s -w" \
    -o "$root/bin/" k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager
rm -rf "$root/gocache" "$root/go" "$root/source" "$root/lists" "$root/cache" "$root"/kubernetes_*
