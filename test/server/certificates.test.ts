/** Warnings about certificates, and their metrics. */

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { createSecureContext } from 'node:tls';
import { makeCertificates, type Pair } from '../support/certificate.ts';
import { readMetrics } from '../support/metrics.ts';
import { fixture } from '../support/programs.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp } from '../support/smtp-client.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const NAME = 'mail.example.org';
const root = certificates.selfSigned('root');
const good = certificates.signedBy(root, NAME);
const expired = certificates.expired(root, NAME);
const expiring = certificates.expiring(root, NAME);
const weak = certificates.signedBy(root, NAME, ['rsa:1024']);
const TIME = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`;

/** A server, and the two files with its certificate and key. */
interface Scene {
  readonly server: RunningServer;
  readonly files: Pair;
  /** Writes another pair to the files, with the root behind the certificate. */
  install(pair: Pair): void;
}

async function open(t: TestContext, pair: Pair, ...options: string[]): Promise<Scene> {
  const folder = mkdtempSync(join(tmpdir(), 'certificates-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const files = { certFile: join(folder, 'cert.pem'), keyFile: join(folder, 'key.pem') };
  const install = ({ certFile, keyFile }: Pair): void => {
    const chain = [certFile, root.certFile].map((file) => readFileSync(file, 'latin1'));
    writeFileSync(files.certFile, chain.join(''));
    copyFileSync(keyFile, files.keyFile);
  };
  install(pair);
  return { server: await start(t, files, ...options), files, install };
}

async function start(
  t: TestContext,
  { certFile, keyFile }: Pair,
  ...options: string[]
): Promise<RunningServer> {
  const environment = { CERTFILE: certFile, KEYFILE: keyFile };
  const all = ['-v2', '-l', NAME, '--metrics', '127.0.0.1:0', ...options];
  const server = await startServer(all, fixture('smtpd-script'), { environment });
  t.after(server.close);
  return server;
}

/** The lines of the log at level 1, without what all have in common. */
function warnings(server: RunningServer): string[] {
  const lines = server.stderr().match(/^.*: warning: .*$/gm) ?? [];
  return lines.map((line) => line.replace('smtpd-starttls-server: warning: ', ''));
}

function warning({ certFile }: Pair, text: string): RegExp {
  return new RegExp(`^event=certificate file=${certFile} text="${text}"$`);
}

/** The time at which the first certificate in a file expires, as in the metrics. */
function expiryOf({ certFile }: Pair): number {
  return Date.parse(new X509Certificate(readFileSync(certFile)).validTo) / 1000;
}

/** Whether this Node refuses a key of 1024 bits. */
function refusesWeakKeys(): boolean {
  try {
    createSecureContext({ cert: readFileSync(weak.certFile), key: readFileSync(weak.keyFile) });
    return false;
  } catch {
    return true;
  }
}

describe('a certificate', { concurrency: 3, timeout: 60_000 }, () => {
  for (const workers of ['1', '2']) {
    const with_ = `with ${workers} worker(s)`;

    for (const [what, pair, text] of [
      ['has expired', expired, `the certificate expired at ${TIME}`],
      ['expires soon', expiring, `the certificate expires within 14 days, at ${TIME}`],
    ] as const) {
      it(`that ${what} causes a warning at the start, and is in the metrics, ${with_}`, async (t) => {
        const { server, files } = await open(t, pair, '--workers', workers);
        assert.equal(warnings(server).length, 1);
        assert.match(warnings(server)[0] ?? '', warning(files, text));
        const metrics = await readMetrics(server);
        const name = `certificate_not_after_timestamp_seconds{name="",file="${files.certFile}"}`;
        assert.equal(metrics.get(name), expiryOf(pair));
        assert.equal(expiryOf(pair) < Date.now() / 1000, pair === expired);
        // It is served all the same.
        const client = await connectSmtp(server.port);
        t.after(client.destroy);
        await client.reply();
        await client.startTls();
        assert.match(await client.ask('QUIT'), /^221 /);
      });
    }

    it(`causes no warning when it has no fault, ${with_}`, async (t) => {
      const { server } = await open(t, good, '--workers', workers);
      const before = Date.now() / 1000;
      const metrics = await readMetrics(server);
      assert.equal(metrics.get('certificate_last_reload_successful'), 1);
      assert.equal(metrics.get('certificate_reload_failures_total'), 0);
      const loaded = metrics.get('certificate_loaded_timestamp_seconds') ?? 0;
      assert.ok(loaded <= before && loaded >= (metrics.get('start_time_seconds') ?? before));
      assert.equal(metrics.get('connections_limit'), 400);
      assert.deepEqual(warnings(server), []);
    });

    it(`is compared again after each reload, and failed ones are counted, ${with_}`, async (t) => {
      const { server, files, install } = await open(t, expired, '--workers', workers);
      const before = (await readMetrics(server)).get('certificate_loaded_timestamp_seconds') ?? 0;
      writeFileSync(files.certFile, 'nonsense');
      for (const failures of [1, 2]) {
        server.signal('SIGHUP');
        await server.logs(new RegExp(`(?:keeping the previous.*){${failures}}`, 's'));
        const failed = await readMetrics(server);
        assert.equal(failed.get('certificate_reload_failures_total'), failures);
        assert.equal(failed.get('certificate_last_reload_successful'), 0);
        assert.equal(failed.get('certificate_loaded_timestamp_seconds'), before);
      }

      install(expiring);
      server.signal('SIGHUP');
      await server.logs(/event=certificate .* expires within 14 days/);
      const renewed = await readMetrics(server);
      assert.equal(renewed.get('certificate_reload_failures_total'), 2);
      assert.equal(renewed.get('certificate_last_reload_successful'), 1);
      assert.ok((renewed.get('certificate_loaded_timestamp_seconds') ?? 0) > before);
      const name = `certificate_not_after_timestamp_seconds{name="",file="${files.certFile}"}`;
      assert.equal(renewed.get(name), expiryOf(expiring));

      // Files that have not changed are read again, too.
      server.signal('SIGHUP');
      await server.logs(/(?:event=certificate [^\n]* expires within 14 days.*){2}/s);
      const again = (await readMetrics(server)).get('certificate_loaded_timestamp_seconds') ?? 0;
      assert.ok(again >= (renewed.get('certificate_loaded_timestamp_seconds') ?? Number.POSITIVE_INFINITY));
    });
  }

  it('that lacks its intermediate causes a warning', async (t) => {
    const server = await start(t, good);
    const text =
      'the certificate of its issuer, CN=root, is not in the file: clients that lack it cannot verify the chain';
    assert.equal(warnings(server).length, 1);
    assert.match(warnings(server)[0] ?? '', warning(good, text));
    const name = `certificate_not_after_timestamp_seconds{name="",file="${good.certFile}"}`;
    assert.equal((await readMetrics(server)).get(name), expiryOf(good));
  });

  it('without the name of -l causes a warning', async (t) => {
    const { server, files } = await open(t, certificates.signedBy(root, 'other.example.org'));
    assert.equal(warnings(server).length, 1);
    assert.match(warnings(server)[0] ?? '', warning(files, `the certificate does not have the name ${NAME}`));
  });

  it('with a short RSA key causes a warning, or is refused by this Node, with its length', async (t) => {
    const text = 'the certificate has an RSA key of 1024 bits, fewer than 2048';
    if (refusesWeakKeys()) {
      await assert.rejects(open(t, weak), {
        message: new RegExp(`ended with 100: .* cannot be used: ERR_SSL_EE_KEY_TOO_SMALL: ${text}\n$`),
      });
      return;
    }
    const { server, files } = await open(t, weak);
    assert.equal(warnings(server).length, 1);
    assert.match(warnings(server)[0] ?? '', warning(files, text));
    const name = `certificate_not_after_timestamp_seconds{name="",file="${files.certFile}"}`;
    assert.equal((await readMetrics(server)).get(name), Math.min(expiryOf(weak), expiryOf(root)));
  });

  it('causes no warning with -q, nor is one needed without TLS', async (t) => {
    const { certFile, keyFile } = expired;
    for (const options of [['-q'], ['--no-starttls']]) {
      const environment = { CERTFILE: certFile, KEYFILE: keyFile };
      const server = await startServer(options, fixture('smtpd-script'), { environment });
      t.after(server.close);
      assert.equal(server.stderr(), '');
    }
  });
});

describe('connections_limit', () => {
  it('is that of -c', async (t) => {
    const { server } = await open(t, good, '-c', '7');
    assert.equal((await readMetrics(server)).get('connections_limit'), 7);
  });
});
