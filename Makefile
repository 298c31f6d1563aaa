# Every target does its own set-up: "make test" and "make run" work on a fresh clone.

PREFIX  ?= /usr/local
DESTDIR ?=
PORT    ?= 2525
BINDIR   = $(DESTDIR)$(PREFIX)/bin
LIBDIR   = $(DESTDIR)$(PREFIX)/lib/smtpd-starttls-proxy
MANDIR   = $(DESTDIR)$(PREFIX)/share/man
DOCDIR  ?= $(PREFIX)/share/doc/smtpd-starttls-proxy
DOCS     = $(DESTDIR)$(DOCDIR)

PROGRAMS = smtpd-starttls-server smtpd-starttls-proxy smtpd-starttls-proxy-io ucspi-tlsd smtpd-maildir smtp-relay-io smtpd-srs-io
VERSION  = $(shell sed -n 's/^  "version": "\(.*\)",$$/\1/p' package.json)
BINS     = $(PROGRAMS:%=dist/bin/%)
FORMATS  = smtp-routes
MANS     = $(PROGRAMS:%=dist/man/%.8) $(FORMATS:%=dist/man/%.5)
# The design is of use with the source only.
DOCUMENTS = README.md CHANGELOG.md $(filter-out docs/architecture.md,$(wildcard docs/*.md docs/*.svg))
FIXTURES = $(patsubst test/support/programs/%.ts,dist/test/%.cjs,$(wildcard test/support/programs/*.ts))
SUPPORT  = $(shell find test/support -name '*.ts')
TESTS    = $(sort $(shell find test -name '*.test.ts'))
SOURCES  = $(shell find lib -name '*.ts')

# npm writes this file when it has installed the packages of the lock file.
TOOLS   = node_modules/.package-lock.json
ESBUILD = node_modules/.bin/esbuild
TSX     = node --import tsx

.PHONY: all build run fixtures test check format fuzz fuzz-server endurance bench bench-start bench-hello install uninstall deb clean

all: build

build: $(BINS) $(MANS) dist/node

$(TOOLS): package.json package-lock.json
	@npm ci --no-audit --no-fund
	@touch $@

# One CommonJS file per program: each connection pays for the start, and the module loader is expensive.
# Minified, because V8 reads the whole file at every start: 10 kB are 1 % of a start.
dist/bin/%: bin/%.ts $(SOURCES) package.json LICENSE dist/package.json $(TOOLS)
	@mkdir -p $(@D)
	@echo $@
	@$(ESBUILD) $< --bundle --platform=node --target=node20 --format=cjs --minify \
	  --legal-comments=none --log-level=warning --supported:dynamic-import=false --define:PROJECT_VERSION='"$(VERSION)"' \
	  --banner:js="$$(printf '#!/usr/bin/env node\n/*\n%s\n*/' "$$(cat LICENSE)")" --outfile=$@
	@chmod +x $@

# The nearest package.json decides the module type of files without an extension.
dist/package.json:
	@mkdir -p $(@D)
	@printf '{ "type": "commonjs" }\n' > $@

# The programs that tests start, bundled too, because some are started for each connection.
dist/test/%.cjs: test/support/programs/%.ts $(SUPPORT) $(SOURCES) $(TOOLS)
	@mkdir -p $(@D)
	@echo $@
	@$(ESBUILD) $< --bundle --platform=node --target=node20 --format=cjs --log-level=warning --outfile=$@

# Node 20 loads a reporter before it can load TypeScript.
dist/test/reporter.mjs: test/support/reporter.ts $(TOOLS)
	@mkdir -p $(@D)
	@echo $@
	@$(ESBUILD) $< --bundle --platform=node --target=node20 --format=esm --log-level=warning --outfile=$@

# A line per file, and all of it as TAP in dist/test.tap. TAP=1 prints the TAP.
SHORT = --test-reporter=./dist/test/reporter.mjs --test-reporter-destination=stdout \
        --test-reporter=tap --test-reporter-destination=dist/test.tap

# What the tests need beside the programs.
fixtures: $(FIXTURES) dist/test/reporter.mjs

test: build fixtures
	@$(TSX) --test --test-concurrency=2 --test-timeout=120000 \
	  $(if $(TAP),--test-reporter=tap,$(SHORT)) $(TESTS)

# FUZZ="--count N --seed S" for a run other than the default.
fuzz: $(TOOLS)
	$(TSX) test/fuzz/fuzz.ts $(FUZZ)

# The same over TCP, against a running server.
fuzz-server: build
	$(TSX) test/fuzz/tcp.ts $(FUZZ)

# Tests that take too long for "make test": thousands of sessions held open for minutes, tens of thousands in turn,
# a siege, an attack. ENDURANCE="hold --sessions N --seconds S", "turns", "siege", "attack".
endurance: build dist/test/heap-probe.cjs
	$(TSX) test/reliability/endurance.ts $(ENDURANCE)

# A comparison with other programs. BENCH="--quick" for a run of about a minute, "--only server,stunnel" for some.
bench: build
	$(TSX) test/bench/bench.ts $(BENCH)

# The CPU time of a start, compared with an empty file. BENCH="--pairs N".
bench-start: build
	$(TSX) test/bench/start.ts $(BENCH)

# The CPU time that a client which computes nothing can cost the server. BENCH="--count N".
bench-hello: build
	$(TSX) test/bench/hello.ts $(BENCH)

check: $(TOOLS)
	node_modules/.bin/tsc
	node_modules/.bin/biome check

format: $(TOOLS)
	node_modules/.bin/biome check --write

# A mail server with STARTTLS on 127.0.0.1, and a Maildir under ./run.
run: build
	@docs/examples/demo/run run $(PORT)

# Root, who installs, may have no node on PATH.
dist/node: $(TOOLS)
	@mkdir -p $(@D)
	@node --print process.execPath > $@

# A service may have only these directories on PATH. Without a node of version 20 or newer there, the installed programs
# name the node that they were built with; NODE is empty if that has been removed since (ls). It may be in the
# home of the user who built them: root gets a warning then.
SERVICE_PATH ?= /usr/bin:/bin
IS_NODE_20    = process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)
NODE          = $(shell env PATH=$(SERVICE_PATH) node --eval '$(IS_NODE_20)' 2>/dev/null && echo /usr/bin/env node || \
                  ls "$$(cat dist/node)")

# The programs are installed beside a package.json that declares their module type, with links in bin. Without a
# package.json, Node first tries to load a file without an extension as an ES module: a fifth of a start.
# Man pages and the README name documents by their paths in the source, in docs, and examples name the programs in
# /usr/local.
install: build
	@test -n '$(NODE)' || { echo 'The node of the build is gone: "make clean", or "make install NODE=/path/of/node".'; exit 1; }
	install -d $(BINDIR) $(LIBDIR) $(MANDIR)/man5 $(MANDIR)/man8 $(DOCS)
	install -m 644 dist/package.json $(LIBDIR)
	install -m 755 $(BINS) $(LIBDIR)
	sed -i '1s|.*|#!$(NODE)|' $(PROGRAMS:%=$(LIBDIR)/%)
	install -m 644 $(filter %.5,$(MANS)) $(MANDIR)/man5
	install -m 644 $(filter %.8,$(MANS)) $(MANDIR)/man8
	install -d $(DOCS)/man
	sed -i 's|docs/|$(subst -,\\-,$(DOCDIR))/|g' $(FORMATS:%=$(MANDIR)/man5/%.5) $(PROGRAMS:%=$(MANDIR)/man8/%.8)
	install -m 644 $(DOCUMENTS) $(DOCS)
	install -m 644 docs/man/*.md $(DOCS)/man
	sed -i 's|](docs/|](|g' $(DOCS)/README.md
	cp -R docs/examples $(DOCS) && chmod -R u=rwX,go=rX $(DOCS)/examples
	find $(DOCS)/examples -type f -exec sed -i \
	  $(foreach program,$(PROGRAMS),-e 's|/usr/local/bin/$(program)|$(PREFIX)/bin/$(program)|g') {} +
	cd $(BINDIR) && ln -sf $(PROGRAMS:%=../lib/smtpd-starttls-proxy/%) .
	@echo 'Installed in $(PREFIX). The programs start with #!$(NODE)'
	@[ "$$(id -u)" != 0 ] || ls -lnL $(firstword $(NODE)) 2>/dev/null | \
	  awk '$$3 != 0 { print "Warning: user " $$3 " can replace that node, which services run as root." }'

uninstall:
	rm -f $(PROGRAMS:%=$(BINDIR)/%) $(PROGRAMS:%=$(MANDIR)/man8/%.8) $(FORMATS:%=$(MANDIR)/man5/%.5)
	rm -f $(addprefix $(DOCS)/,$(notdir $(DOCUMENTS)))
	rm -rf $(LIBDIR) $(DOCS)/examples $(DOCS)/man
	rmdir $(DOCS) 2>/dev/null || true

# A package for Debian, in which node is /usr/bin/node. All times in it are that of the last commit. Its version is lower
# than that of a package by Debian itself, whose revisions begin with 1.
DEB_VERSION = $(VERSION)-1~local
DEB         = dist/smtpd-starttls-proxy_$(DEB_VERSION)_all.deb
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)

deb: build
	@rm -rf dist/deb
	@umask 022 && $(MAKE) --silent install DESTDIR=dist/deb PREFIX=/usr DOCDIR=/usr/share/doc/smtpd-starttls-proxy \
	  NODE=/usr/bin/node >/dev/null
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) packaging/build-deb dist/deb $(DEB_VERSION) $(DEB) >/dev/null
	@echo $(DEB)

clean:
	rm -rf dist

# The Markdown source serves both the repository and man.
dist/man/%: docs/man/%.md docs/man/layout.awk $(TOOLS)
	@mkdir -p $(@D)
	@echo $@
	@node_modules/.bin/marked-man --no-breaks --manual "smtpd-starttls-proxy" $< | \
	  awk -v date="$$(date -u $(if $(SOURCE_DATE_EPOCH),-d @$(SOURCE_DATE_EPOCH),-r $<) +%Y-%m-%d)" -f docs/man/layout.awk > $@.new
	@mv $@.new $@
