/** Keys and certificates that change while a server runs: lib/server/secrets.ts. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs, {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import type { Reporter } from '../../../lib/program/reporter.ts';
import {
  createSecrets,
  type Secrets,
  type SecretsOptions,
  type SecretsSnapshot,
} from '../../../lib/server/secrets.ts';
import { type CertificateMaker, makeCertificates, type Pair } from '../../support/certificate.ts';
import { until } from '../../support/processes.ts';

/** How often files are checked in these tests, in milliseconds. */
const INTERVAL = 20;

let certificates: CertificateMaker;
let first: Pair;
let second: Pair;
before(() => {
  certificates = makeCertificates();
  first = certificates.selfSigned('first');
  second = certificates.selfSigned('second');
});
after(() => certificates.remove());

/** Secrets from a folder of their own. */
interface Scene {
  readonly folder: string;
  readonly cert: string;
  readonly key: string;
  readonly secrets: Secrets;
  /** What the watcher was called with. */
  readonly changes: SecretsSnapshot[];
  /** Of each attempt to read again, whether it succeeded. */
  readonly reloads: boolean[];
  readonly warnings: string[];
}

function openScene(t: TestContext, more: Partial<SecretsOptions> = {}): Scene {
  const folder = mkdtempSync(join(certificates.folder, 'scene-'));
  const [cert, key] = [join(folder, 'cert'), join(folder, 'key')];
  put(first, { cert, key });
  return watch(t, folder, { cert, key }, more);
}

function watch(
  t: TestContext,
  folder: string,
  { cert, key }: { cert: string; key: string },
  { environment, ...more }: Partial<SecretsOptions> = {},
): Scene {
  const warnings: string[] = [];
  const report: Reporter = { fatal() {}, info() {}, warning: (text) => warnings.push(text) };
  const secrets = createSecrets({
    environment: { CERTFILE: cert, KEYFILE: key, ...environment },
    credentialOptions: { sniLevel: 0, asksClients: false },
    ticketKeysFile: undefined,
    report,
    interval: INTERVAL,
    ...more,
  });
  const changes: SecretsSnapshot[] = [];
  const reloads: boolean[] = [];
  secrets.watch(
    (snapshot) => changes.push(snapshot),
    (isValid) => reloads.push(isValid),
  );
  t.after(() => secrets.close());
  return { folder, cert, key, secrets, changes, reloads, warnings };
}

function put(pair: Pair, { cert, key }: { cert: string; key: string }): void {
  copyFileSync(pair.certFile, cert);
  copyFileSync(pair.keyFile, key);
}

function assertShows(snapshot: SecretsSnapshot | undefined, pair: Pair): void {
  assert.equal(snapshot?.files?.standard[0]?.certificate, readFileSync(pair.certFile, 'latin1'));
  assert.equal(snapshot?.files?.standard[0]?.key, readFileSync(pair.keyFile, 'latin1'));
}

/** The pair, padded to files of a fixed size. */
function padded({ certFile, keyFile }: Pair): Pair {
  const folder = mkdtempSync(join(certificates.folder, 'padded-'));
  const [cert, key] = [join(folder, 'cert'), join(folder, 'key')];
  writeFileSync(cert, readFileSync(certFile, 'latin1').padEnd(4096, '\n'));
  writeFileSync(key, readFileSync(keyFile, 'latin1').padEnd(4096, '\n'));
  return { certFile: cert, keyFile: key };
}

describe('createSecrets', () => {
  it('reads everything at once, and gives plain data', (t) => {
    const { secrets } = openScene(t);
    const snapshot = secrets.current();
    assertShows(snapshot, first);
    assert.equal(Buffer.from(snapshot.ticketKey, 'base64').length, 48);
    assert.deepEqual(JSON.parse(JSON.stringify(snapshot)), snapshot);
  });

  it('throws when something is not valid', (t) => {
    assert.throws(() => watch(t, '', { cert: first.certFile, key: second.keyFile }), {
      status: 100,
      message: /is not the key of/,
    });
    assert.throws(() => openScene(t, { ticketKeysFile: '/nonexistent' }), { status: 111 });
  });

  it('creates a different ticket key each time', (t) => {
    const keys = [openScene(t), openScene(t)].map(({ secrets }) => secrets.current().ticketKey);
    assert.notEqual(keys[0], keys[1]);
  });
});

describe('reload', () => {
  it('loads new files, and calls the watcher', (t) => {
    const scene = openScene(t);
    const { ticketKey } = scene.secrets.current();
    put(second, scene);
    assert.equal(scene.secrets.reload(), true);
    assertShows(scene.secrets.current(), second);
    assert.deepEqual(scene.changes, [scene.secrets.current()]);
    assert.equal(scene.secrets.current().ticketKey, ticketKey);
  });

  it('does not call the watcher for unchanged content', (t) => {
    const { secrets, changes, cert } = openScene(t);
    utimesSync(cert, 1, 1);
    assert.equal(secrets.reload(), true);
    assert.deepEqual(changes, []);
  });

  it('rejects invalid files with a warning each time, and keeps the previous ones', (t) => {
    const { secrets, changes, warnings, cert, key } = openScene(t);
    copyFileSync(second.certFile, cert);
    assert.equal(secrets.reload(), false);
    assert.equal(secrets.reload(), false);
    assertShows(secrets.current(), first);
    assert.deepEqual(changes, []);
    const why = `unable to set up TLS: KEYFILE ${key} is not the key of CERTFILE ${cert}`;
    const warning = `${why}; keeping the previous keys and certificates`;
    assert.deepEqual(warnings, [warning, warning]);
  });

  it('reports each attempt, also without a change, when the new ones are in use', (t) => {
    const { secrets, reloads, cert, key } = openScene(t);
    assert.deepEqual(reloads, []);
    secrets.reload();
    copyFileSync(second.certFile, cert);
    secrets.reload();
    secrets.reload();
    assert.deepEqual(reloads, [true, false, false]);
    copyFileSync(second.keyFile, key);
    let shown: SecretsSnapshot | undefined;
    secrets.watch(
      () => {},
      () => {
        shown = secrets.current();
      },
    );
    secrets.reload();
    assertShows(shown, second);
  });

  it('works without a watcher, and after close', (t) => {
    const { secrets, changes, reloads, ...paths } = openScene(t);
    secrets.close();
    put(second, paths);
    assert.equal(secrets.reload(), true);
    assertShows(secrets.current(), second);
    assert.deepEqual([changes, reloads], [[], []]);
  });
});

describe('watch', { concurrency: 4, timeout: 60_000 }, () => {
  async function assertChanged({ changes, warnings }: Scene, pair: Pair): Promise<void> {
    await until('the watcher is called', () => changes.length > 0);
    assertShows(changes[0], pair);
    assert.equal(changes.length, 1);
    assert.deepEqual(warnings, []);
  }

  it('reports files written in place', async (t) => {
    const scene = openScene(t);
    put(second, scene);
    await assertChanged(scene, second);
    assertShows(scene.secrets.current(), second);
  });

  it('reports files with the same size and modification time', async (t) => {
    const [scene, fresh] = [openScene(t), padded(second)];
    put(padded(first), scene);
    for (const path of [scene.cert, scene.key]) utimesSync(path, 1, 1);
    scene.secrets.reload();
    scene.changes.length = 0;
    put(fresh, scene);
    for (const path of [scene.cert, scene.key]) utimesSync(path, 1, 1);
    await until('the watcher is called', () => scene.changes.length > 0);
    assert.equal(scene.changes[0]?.files?.standard[0]?.certificate, readFileSync(fresh.certFile, 'latin1'));
  });

  it('reports files replaced by rename', async (t) => {
    const scene = openScene(t);
    const fresh = { cert: join(scene.folder, 'cert.new'), key: join(scene.folder, 'key.new') };
    put(second, fresh);
    renameSync(fresh.cert, scene.cert);
    renameSync(fresh.key, scene.key);
    await assertChanged(scene, second);
  });

  it('reports a link to a directory that now leads elsewhere', async (t) => {
    const folder = mkdtempSync(join(certificates.folder, 'scene-'));
    for (const [name, pair] of Object.entries({ first, second })) {
      mkdirSync(join(folder, name));
      put(pair, { cert: join(folder, name, 'cert'), key: join(folder, name, 'key') });
    }
    // As Kubernetes has it: cert -> ..data/cert, ..data -> first.
    symlinkSync('first', join(folder, '..data'));
    const [cert, key] = [join(folder, 'cert'), join(folder, 'key')];
    symlinkSync('..data/cert', cert);
    symlinkSync('..data/key', key);
    const scene = watch(t, folder, { cert, key });
    symlinkSync('second', join(folder, '..data_new'));
    renameSync(join(folder, '..data_new'), join(folder, '..data'));
    await assertChanged(scene, second);
  });

  it('reports a new file in the directory of authorities', async (t) => {
    const folder = mkdtempSync(join(certificates.folder, 'authorities-'));
    copyFileSync(first.certFile, join(folder, 'a'));
    const { changes } = openScene(t, {
      environment: { CADIR: folder },
      credentialOptions: { sniLevel: 0, asksClients: true },
    });
    copyFileSync(second.certFile, join(folder, 'b'));
    await until('the watcher is called', () => changes.length > 0);
    assert.equal(changes[0]?.files?.authorities.length, 2);
  });

  it('reports a file of authorities that was invalid at first, and was corrected in place', async (t) => {
    const folder = mkdtempSync(join(certificates.folder, 'authorities-'));
    copyFileSync(first.certFile, join(folder, 'a'));
    const { changes, warnings } = openScene(t, {
      environment: { CADIR: folder },
      credentialOptions: { sniLevel: 0, asksClients: true },
    });
    writeFileSync(join(folder, 'b'), 'no certificate');
    await until('there is a warning', () => warnings.length > 0);
    copyFileSync(second.certFile, join(folder, 'b'));
    await until('the watcher is called', () => changes.length > 0);
    assert.equal(changes[0]?.files?.authorities.length, 2);
  });

  it('waits until files are no longer being written before it reads them', async (t) => {
    const scene = openScene(t, { interval: 100 });
    copyFileSync(second.certFile, scene.cert);
    // The files keep changing for several checks. Of two timers that are late the one that was due first is called
    // first, so no two checks see the same state.
    let time = 0;
    await new Promise<void>((resolve) => {
      const busy = setInterval(() => {
        time += 1;
        utimesSync(scene.cert, time, time);
        if (time < 50) return;
        clearInterval(busy);
        resolve();
      }, 10);
    });
    assert.deepEqual([scene.warnings, scene.changes], [[], []]);
    copyFileSync(second.keyFile, scene.key);
    await assertChanged(scene, second);
  });

  it('warns of invalid files once, keeps the previous ones, and loads valid ones again', async (t) => {
    const { secrets, changes, reloads, warnings, cert, key } = openScene(t);
    copyFileSync(second.certFile, cert);
    await until('there is a warning', () => warnings.length > 0);
    assert.match(warnings[0] ?? '', /is not the key of .*; keeping the previous keys and certificates$/);
    assertShows(secrets.current(), first);
    assert.deepEqual(changes, []);
    copyFileSync(second.keyFile, key);
    await until('the watcher is called', () => changes.length > 0);
    assertShows(changes[0], second);
    assert.equal(warnings.length, 1);
    assert.deepEqual(reloads, [false, true]);
  });

  it('warns of a file that has disappeared, and loads the one that replaces it', async (t) => {
    const scene = openScene(t);
    rmSync(scene.cert);
    await until('there is a warning', () => scene.warnings.length > 0);
    assert.match(scene.warnings[0] ?? '', /^unable to read CERTFILE .*\/cert: ENOENT \([^)]+\);/);
    put(second, scene);
    await until('the watcher is called', () => scene.changes.length > 0);
    assertShows(scene.changes[0], second);
  });

  it('keeps the ticket key of a file, without rotation', async (t) => {
    const file = join(mkdtempSync(join(certificates.folder, 'keys-')), 'keys');
    const [one, other] = [randomBytes(48), randomBytes(48)];
    writeFileSync(file, one);
    const scene = openScene(t, { ticketKeysFile: file, rotation: 0 });
    assert.equal(scene.secrets.current().ticketKey, one.toString('base64'));
    put(second, scene);
    await until('the watcher is called', () => scene.changes.length > 0);
    writeFileSync(file, `${other.toString('base64')}\n`);
    await until('the watcher is called again', () => scene.changes.length > 1);
    const keys = scene.changes.map(({ ticketKey }) => ticketKey);
    assert.deepEqual(keys, [one.toString('base64'), other.toString('base64')]);
  });

  it('does not keep a process alive', async () => {
    const module = JSON.stringify(new URL('../../../lib/server/secrets.ts', import.meta.url).href);
    const program = `
      import { createSecrets } from ${module};
      const credentialOptions = { sniLevel: 0, asksClients: false };
      const report = { fatal() {}, warning() {}, info() {} };
      const secrets = createSecrets({ environment: process.env, credentialOptions, report });
      secrets.watch(() => {});
    `;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', program], {
      env: { ...process.env, CERTFILE: first.certFile, KEYFILE: first.keyFile },
      stdio: 'ignore',
      timeout: 10_000,
    });
    assert.deepEqual(await once(child, 'exit'), [0, null]);
  });
});

describe('a random ticket key', () => {
  const HOUR = 3_600_000;

  it('is replaced an hour after it was created, and not before; the rest stays', async (t) => {
    let time = 5 * HOUR;
    t.mock.method(performance, 'now', () => time);
    const { secrets, changes, ...paths } = openScene(t);
    const old = secrets.current();
    /** Changes the files and waits for the check that notices it, which checks the age of the key, too. */
    const renew = async (pair: Pair): Promise<string | undefined> => {
      const before = changes.length;
      put(pair, paths);
      await until('the watcher is called for the files', () => changes.length > before);
      assert.equal(changes.length, before + 1);
      assertShows(changes[before], pair);
      return changes[before]?.ticketKey;
    };
    const replaced = async (): Promise<SecretsSnapshot | undefined> => {
      const before = changes.length;
      await until('the watcher is called for the key', () => changes.length > before);
      return changes[before];
    };

    time += HOUR - 1;
    assert.equal(await renew(second), old.ticketKey);
    time += 1;
    const next = await replaced();
    assertShows(next, second);
    assert.equal(Buffer.from(next?.ticketKey ?? '', 'base64').length, 48);
    // Its hour starts when it is created.
    assert.equal(await renew(first), next?.ticketKey);
    time += HOUR - 1;
    assert.equal(await renew(second), next?.ticketKey);
    time += 1;
    const last = await replaced();
    assert.equal(new Set([old, next, last].map((snapshot) => snapshot?.ticketKey)).size, 3);
    // A new certificate does not restore an old key.
    assert.equal(await renew(first), last?.ticketKey);
  });
});

describe('secrets for servers that URLs name', () => {
  /** A scene with a file of credentials. */
  function openRelayScene(
    t: TestContext,
    environment: NodeJS.ProcessEnv = {},
  ): Scene & { readonly credentialsFile: string } {
    const credentialsFile = join(mkdtempSync(join(certificates.folder, 'relay-')), 'credentials');
    writeFileSync(credentialsFile, 'mail.example alice first\n', { mode: 0o600 });
    const scene = openScene(t, { relay: { credentialsFile, routesFile: undefined, pins: [] }, environment });
    return { ...scene, credentialsFile };
  }

  it('are users, passwords, and the files of variables with RELAY_', (t) => {
    const { secrets } = openRelayScene(t, {
      CAFILE: '/nonexistent',
      RELAY_CAFILE: first.certFile,
      RELAY_CERTFILE: second.certFile,
      RELAY_KEYFILE: second.keyFile,
    });
    const { relay } = secrets.current();
    assert.deepEqual(relay?.credentials, [['mail.example', { user: 'alice', password: 'first' }]]);
    assert.deepEqual(relay.tls.authorities, [readFileSync(first.certFile, 'latin1').trimEnd()]);
    assert.equal(relay.tls.pairs[0]?.certificate, readFileSync(second.certFile, 'latin1'));
    assert.deepEqual(JSON.parse(JSON.stringify(secrets.current())), secrets.current());
  });

  it('are not there without such servers, and need no keys of a server without TLS', (t) => {
    assert.equal(openScene(t).secrets.current().relay, undefined);
    const scene = openScene(t, { environment: { CERTFILE: undefined }, credentialOptions: undefined });
    assert.equal(scene.secrets.current().files, undefined);
  });

  it('are read again, unless a file is not valid: then the previous ones are kept, with a warning', (t) => {
    const { secrets, changes, warnings, credentialsFile } = openRelayScene(t);
    writeFileSync(credentialsFile, 'mail.example alice\n');
    assert.equal(secrets.reload(), false);
    assert.match(
      warnings[0] ?? '',
      /credentials: line 1: expected .*; keeping the previous keys, certificates and credentials$/,
    );
    assert.equal(secrets.current().relay?.credentials[0]?.[1].password, 'first');
    writeFileSync(credentialsFile, 'mail.example alice second\n');
    assert.equal(secrets.reload(), true);
    assert.equal(changes.at(-1)?.relay?.credentials[0]?.[1].password, 'second');
  });

  it('are watched', async (t) => {
    const { changes, credentialsFile } = openRelayScene(t);
    writeFileSync(credentialsFile, 'mail.example alice second\n');
    await until('the watcher is called', () => changes.length > 0);
    assert.equal(changes[0]?.relay?.credentials[0]?.[1].password, 'second');
  });

  it('are refused when a file of the start is not valid', (t) => {
    assert.throws(() => openRelayScene(t, { RELAY_CAFILE: '/nonexistent' }), {
      status: 111,
      message: /^unable to read RELAY_CAFILE \/nonexistent: ENOENT \([^)]+\)$/,
    });
    assert.throws(() => openRelayScene(t, { RELAY_CERTFILE: first.certFile }), {
      status: 100,
      message: /RELAY_KEYFILE is not set$/,
    });
  });
});

describe('a file that could not be read for lack of descriptors', () => {
  it('is read later, although unchanged, with a single warning', async (t) => {
    const scene = openScene(t);
    const want = t.mock.method(fs, 'openSync', () => {
      throw Object.assign(new Error('too many open files'), { code: 'EMFILE' });
    });
    syncBuiltinESMExports();
    t.after(syncBuiltinESMExports);
    put(second, scene);
    await until('it was tried often', () => want.mock.callCount() > 3);
    want.mock.restore();
    syncBuiltinESMExports();
    await until('the watcher is called', () => scene.changes.length > 0);
    assertShows(scene.changes[0], second);
    assert.equal(scene.warnings.length, 1);
    assert.match(scene.warnings[0] ?? '', /: EMFILE \(too many open descriptors: [^)]+\);/);
  });
});
