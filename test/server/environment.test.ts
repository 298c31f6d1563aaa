/** The environment, the descriptors and the user of smtpd. */

import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, mkdtempSync, readdirSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { childrenOf, statusOf, until } from '../support/processes.ts';
import { missing } from '../support/programs.ts';
import { type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { certificate } from '../support/shim.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

/** An smtpd that replies to HELP with its environment, in base64. */
const SMTPD = [
  ...['sh', '-c'],
  `printf "220 ready\\r\\n"
  while read -r line; do
    case $line in
      HELP*) env -0 | base64 -w 0 | { read -r all; printf "214 %s\\r\\n" "$all"; };;
      QUIT*) printf "221 bye\\r\\n"; exit 0;;
      *) printf "250 yes\\r\\n";;
    esac
  done`,
];
const IS_ROOT = process.getuid?.() === 0;

/** Starts a server that is stopped when the test ends. */
async function start(
  t: TestContext,
  options: readonly string[],
  setup: ServerSetup = {},
): Promise<RunningServer> {
  const server = await startServer(options, SMTPD, setup);
  t.after(() => server.close());
  return server;
}

/** Connects and is greeted. */
async function connectGreeted(t: TestContext, port: number, host = '127.0.0.1'): Promise<SmtpClient> {
  const client = await connectSmtp(port, { host });
  t.after(() => client.destroy());
  assert.equal(await client.reply(), '220 ready');
  return client;
}

/** The environment of the smtpd of a client. */
async function environmentOf(client: SmtpClient): Promise<Map<string, string>> {
  const reply = await client.ask('HELP');
  assert.match(reply, /^214 /);
  const entries = Buffer.from(reply.slice(4), 'base64').toString('latin1').split('\0').filter(Boolean);
  return new Map(entries.map((entry) => [entry.replace(/=.*/s, ''), entry.replace(/^[^=]*=/, '')] as const));
}

/** The variables of UCSPI-TCP alone. */
function ucspi(environment: ReadonlyMap<string, string>): Record<string, string> {
  const names = /^(?:PROTO|TCP.*|SSL(?!_CERT_(?:FILE|DIR)$).*)$/;
  return Object.fromEntries([...environment].filter(([name]) => names.test(name)));
}

function portOf(socket: Socket): string {
  return String(socket.localPort);
}

describe('the environment of smtpd describes its connection', { concurrency: 2 }, () => {
  for (const [what, listen, host, local, remote] of [
    ['by IPv4', '127.0.0.1', '127.0.0.1', '127.0.0.1', '127.0.0.1'],
    ['by IPv4 to another address', '0', '127.0.0.9', '127.0.0.9', '127.0.0.1'],
    ['by IPv6', '::1', '::1', '::1', '::1'],
    ['by IPv4 to a listener for all', '::', '127.0.0.1', '127.0.0.1', '127.0.0.1'],
    ['by IPv6 to a listener for all', '::', '::1', '::1', '::1'],
  ] as const) {
    it(what, async (t) => {
      const server = await start(t, [], { listen: [listen, '0'] });
      const client = await connectGreeted(t, server.port, host);
      assert.deepEqual(ucspi(await environmentOf(client)), {
        PROTO: 'TCP',
        TCPLOCALIP: local,
        TCPLOCALPORT: String(server.port),
        TCPREMOTEIP: remote === '127.0.0.1' ? client.tcp().localAddress : remote,
        TCPREMOTEPORT: portOf(client.tcp()),
      });
    });
  }

  it('with the local name of -l', async (t) => {
    const server = await start(t, ['-l', 'mx.example.org']);
    const environment = await environmentOf(await connectGreeted(t, server.port));
    assert.equal(environment.get('TCPLOCALHOST'), 'mx.example.org');
  });

  it('without what an outer server has set for another connection', async (t) => {
    const stale = {
      ...{ PROTO: 'SSL', TCPREMOTEIP: '192.0.2.7', TCPREMOTEPORT: '7', TCPREMOTEHOST: 'evil.example.org' },
      ...{
        TCPREMOTEINFO: 'root',
        TCPLOCALHOST: 'old.example.org',
        TCPLOCALIP: '192.0.2.8',
        TCPLOCALPORT: '8',
      },
      ...{ SSL_PROTOCOL: 'TLSv1', SSL_CIPHER: 'NULL', SSL_PEER_CERT_SUBJECT: 'CN=root' },
    };
    const server = await start(t, [], { environment: stale });
    const client = await connectGreeted(t, server.port);
    assert.deepEqual(ucspi(await environmentOf(client)), {
      PROTO: 'TCP',
      TCPLOCALIP: '127.0.0.1',
      TCPLOCALPORT: String(server.port),
      TCPREMOTEIP: '127.0.0.1',
      TCPREMOTEPORT: portOf(client.tcp()),
    });
  });
});

describe('the environment of smtpd describes TLS', { concurrency: 2 }, () => {
  for (const [what, options, isSet] of [
    ['not while there is none', [], false],
    ['not when it was there before', [], false],
    ['when it is started for it (--fresh)', ['--fresh'], true],
    ['when there was nothing before it (--implicit-tls)', ['--implicit-tls'], true],
  ] as const) {
    it(what, async (t) => {
      const server = await start(t, options);
      const client = what.startsWith('when there was')
        ? await connectSmtp(server.port)
        : await connectGreeted(t, server.port);
      t.after(() => client.destroy());
      if (options[0] === '--implicit-tls') {
        await client.shakeHands();
        assert.equal(await client.reply(), '220 ready');
      } else if (what !== 'not while there is none') await client.startTls();
      const environment = await environmentOf(client);
      assert.equal(environment.get('SSL_PROTOCOL'), isSet ? 'TLSv1.3' : undefined);
      assert.equal(environment.get('SSL_CIPHER'), isSet ? client.tls().getCipher().name : undefined);
      assert.equal(environment.get('TCPREMOTEPORT'), portOf(client.tcp()));
    });
  }
});

describe('smtpd inherits nothing private to the server', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`in its environment, with ${workers}`, async (t) => {
      const { certFile, keyFile } = certificate();
      const server = await start(t, ['--workers', workers], {
        environment: {
          ...{ 'CERTFILE:mail.example.org': certFile, 'KEYFILE:mail.example.org': keyFile },
          ...{ NOTIFY_SOCKET: '/nowhere', LISTEN_FDS: '1', LISTEN_PID: '1', LISTEN_FDNAMES: 'x' },
          ...{ TLS_UID: '1', CADIR: '/nowhere', HARMLESS: 'stays', SSLCTLFD: '3' },
        },
      });
      const environment = await environmentOf(await connectGreeted(t, server.port));
      assert.equal(environment.get('HARMLESS'), 'stays');
      const secret =
        /^(?:CERTFILE|KEYFILE|CADIR|CAFILE|TLS_|SSL(?!_CERT_(?:FILE|DIR)$)|LISTEN_|NOTIFY_|NODE_(?!OPTIONS|ENV|TEST))/;
      assert.deepEqual(
        [...environment.keys()].filter((name) => secret.test(name)),
        [],
      );
    });

    it(`among its descriptors, with ${workers}`, async (t) => {
      const socket = createServer();
      await new Promise<void>((resolve) => socket.listen(0, '127.0.0.1', resolve));
      t.after(() => socket.close());
      // The types of Node do not declare its descriptor.
      const handle: unknown = Reflect.get(socket, '_handle');
      assert.ok(
        typeof handle === 'object' && handle !== null && 'fd' in handle && typeof handle.fd === 'number',
      );
      const server = await start(
        t,
        ['--workers', workers, '--metrics', '127.0.0.1:0', '--listen', '127.0.0.1:0'],
        { descriptors: [handle.fd, 'pipe', 'ignore'] },
      );
      const clients: SmtpClient[] = [];
      for (let count = 0; count < 6; count++) clients.push(await connectGreeted(t, server.port));
      await clients[0]?.startTls();
      clients.push(await connectGreeted(t, server.port));
      const smtpds = (workers === '1' ? [server.pid] : childrenOf(server.pid)).flatMap(childrenOf);
      assert.equal(smtpds.length, 7);
      for (const pid of smtpds) {
        const open = readdirSync(`/proc/${pid}/fd`).filter((fd) => !isFromOutside(pid, fd));
        assert.deepEqual(open, ['0', '1', '2']);
      }
    });
  }
});

/** Whether a descriptor was inherited from the process that started these tests. */
function isFromOutside(pid: number, fd: string): boolean {
  try {
    return Number(fd) > 99 && readlinkSync(`/proc/${pid}/fd/${fd}`) === readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return false;
  }
}

describe('another user', { skip: IS_ROOT ? false : 'needs root', concurrency: 2 }, () => {
  /** Files that only root can read, in a folder of their own. */
  function privateFiles(t: TestContext): { CERTFILE: string; KEYFILE: string } {
    const folder = mkdtempSync(join(tmpdir(), 'private-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const files = { CERTFILE: join(folder, 'cert.pem'), KEYFILE: join(folder, 'key.pem') };
    const { certFile, keyFile } = certificate();
    copyFileSync(certFile, files.CERTFILE);
    copyFileSync(keyFile, files.KEYFILE);
    chmodSync(files.KEYFILE, 0o400);
    assert.equal(statSync(folder).mode & 0o077, 0);
    return files;
  }

  /** The processes that serve, and the smtpds. */
  function familyOf(server: RunningServer): { workers: number[]; smtpds: number[] } {
    const workers = childrenOf(server.pid);
    return { workers, smtpds: workers.flatMap(childrenOf) };
  }

  for (const [options, environment, uid, gid, groups] of [
    [['-u', '65533', '-g', '65532'], {}, 65533, 65532, '65532'],
    [['-u', '65533', '-g', '65532', '--workers', '2'], {}, 65533, 65532, '65532'],
    [['-g', '65532'], {}, 0, 65532, '65532'],
    [['-U'], { UID: '65533', GID: '65532' }, 65533, 65532, '65532'],
    [['-U'], { UID: '65533', GID: '65532', GIDLIST: '65532,65530,65531' }, 65533, 65532, '65530 65531 65532'],
  ] as const) {
    it(`serves, by ${options.join(' ')} ${Object.values(environment).join(' ')}`, async (t) => {
      const server = await start(t, options, { environment: { ...privateFiles(t), ...environment } });
      const client = await connectGreeted(t, server.port);
      await client.startTls();
      assert.equal(await client.ask('EHLO me'), '250 yes');
      const { workers, smtpds } = familyOf(server);
      assert.equal(smtpds.length, 1);
      for (const pid of [...workers, ...smtpds]) {
        assert.equal(statusOf(pid, 'Uid'), Array(4).fill(uid).join(' '));
        assert.equal(statusOf(pid, 'Gid'), Array(4).fill(gid).join(' '));
        assert.equal(statusOf(pid, 'Groups'), groups);
      }
      assert.match(statusOf(server.pid, 'Uid'), /^0 /);
    });
  }

  it('keeps its groups when only the user is set, as with tcpserver', async (t) => {
    const server = await start(t, ['-u', '65533'], {
      environment: privateFiles(t),
      under: ['setpriv', '--groups', '65530', '--'],
    });
    await connectGreeted(t, server.port);
    const { smtpds } = familyOf(server);
    assert.equal(smtpds.length, 1);
    for (const pid of smtpds) {
      assert.equal(statusOf(pid, 'Uid'), '65533 65533 65533 65533');
      assert.equal(statusOf(pid, 'Groups'), '65530');
    }
  });

  it('serves with a new key that only root can read', async (t) => {
    const files = privateFiles(t);
    const maker = makeCertificates();
    t.after(() => maker.remove());
    const server = await start(t, ['-u', '65533', '-g', '65532', '-v2'], { environment: files });
    const { certFile, keyFile } = maker.selfSigned('new.example.org');
    copyFileSync(certFile, files.CERTFILE);
    copyFileSync(keyFile, files.KEYFILE);
    server.signal('SIGHUP');
    await server.logs(/event=secrets text="loaded new keys and certificates"/);
    const client = await connectGreeted(t, server.port);
    await client.startTls();
    assert.equal(client.tls().getPeerCertificate().subject.CN, 'new.example.org');
  });

  it('listens on a privileged port', async (t) => {
    const server = await start(t, ['-u', '65533', '-g', '65532'], {
      environment: privateFiles(t),
      listen: ['127.5.4.2', '465'],
    });
    await connectGreeted(t, server.port, '127.5.4.2');
    const [worker = 0] = childrenOf(server.pid);
    process.kill(worker, 'SIGKILL');
    await until('it is served again', () => {
      const [another = worker] = childrenOf(server.pid);
      return another !== worker && /^65533 /.test(statusOf(another, 'Uid'));
    });
    await connectGreeted(t, server.port, '127.5.4.2');
  });

  it('cannot read its key under s6-applyuidgid', { skip: missing('s6-applyuidgid') }, async (t) => {
    await assert.rejects(
      startServer([], SMTPD, {
        environment: { ...privateFiles(t), UID: '65533', GID: '65532', GIDLIST: '65532' },
        under: ['s6-applyuidgid', '-Uz'],
      }),
      /ended with 111: smtpd-starttls-server: fatal: [^\n]*EACCES \(this user cannot read it, or cannot search a directory above it: namei -l\)\n$/,
    );
  });
});
