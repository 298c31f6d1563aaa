/** Large transfers through ucspi-tlsd: every byte arrives, in order, whichever side is slow. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { type CertificateMaker, makeCertificates } from '../support/certificate.ts';
import { type Digest, poured, runTlsd } from '../support/controlled-program.ts';
import { unreadOctets } from '../support/kernel.ts';
import { statusOf, until } from '../support/processes.ts';
import { startTls } from '../support/tls-client.ts';

const PIECE = 'abcdefghijklmnopqrstuvwxyz'.repeat(1000);
const COUNT = 1200;

describe('a large transfer through ucspi-tlsd', { concurrency: 2, timeout: 120_000 }, () => {
  let certificates: CertificateMaker;
  let environment: NodeJS.ProcessEnv;
  before(() => {
    certificates = makeCertificates();
    const { certFile, keyFile } = certificates.selfSigned('mail.example.org');
    environment = { CERTFILE: certFile, KEYFILE: keyFile };
  });
  after(() => certificates.remove());

  for (const options of [['-S'], ['-s'], ['-J'], ['-J', '-s']]) {
    it(`arrives complete in both directions at once, with ${options.join(' ')}`, async (t) => {
      const { client, tlsd, program } = await runTlsd(t, { options, environment });
      await program.write('control', 'y');
      const tls = await startTls(client);
      const up = program.hash('read');
      const down = program.pour('write', PIECE, COUNT).then(() => program.close('write'));
      const [received] = await Promise.all([hash(tls), pour(tls), down]);
      const expected = hashOf(poured(PIECE, COUNT));
      assert.deepEqual(received, expected);
      assert.deepEqual(await up, expected);
      program.exit(0);
      assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
      assert.equal(tlsd.stderr(), '');
    });
  }

  it('waits for a program that does not read, in bounded memory, and then arrives complete', async (t) => {
    const { client, program } = await runTlsd(t, { environment });
    await program.write('control', 'y');
    const tls = await startTls(client);
    tls.resume();
    const sent = pour(tls);
    const port = client.remotePort ?? 0;
    await until('the client waits', () => tls.writableNeedDrain);
    await until('ucspi-tlsd has stopped reading', () =>
      isHeldUp(program.parent, unreadOctets(port, client.localPort ?? 0)),
    );
    assert.ok(client.bytesWritten < (PIECE.length * COUNT) / 2, `${client.bytesWritten} octets were taken`);
    assert.ok(residentKiB(program.parent) < 120_000, `${residentKiB(program.parent)} KiB`);
    const received = program.hash('read');
    await sent;
    assert.deepEqual(await received, hashOf(poured(PIECE, COUNT)));
  });

  it('waits for a client that does not read, and then arrives complete after the program has ended', async (t) => {
    const { client, tlsd, program } = await runTlsd(t, { environment });
    await program.write('control', 'y');
    const tls = await startTls(client);
    tls.pause();
    // As much as the buffers hold, so that the program can end before the client reads.
    await program.pour('write', PIECE, 12);
    program.exit(2);
    assert.deepEqual(await hash(tls), hashOf(poured(PIECE, 12)));
    tls.end();
    assert.deepEqual(await tlsd.ended, { code: 2, signal: null });
  });
});

function hashOf(pieces: Iterable<Buffer>): Digest {
  const digest = createHash('sha256');
  let size = 0;
  for (const piece of pieces) {
    digest.update(piece);
    size += piece.length;
  }
  return { size, sha256: digest.digest('hex') };
}

async function hash(tls: TLSSocket): Promise<Digest> {
  const digest = createHash('sha256');
  let size = 0;
  tls.on('data', (bytes: Buffer) => {
    digest.update(bytes);
    size += bytes.length;
  });
  tls.resume();
  await once(tls, 'end');
  return { size, sha256: digest.digest('hex') };
}

/** Writes the same data as the program, and half-closes. */
async function pour(tls: TLSSocket): Promise<void> {
  for (const piece of poured(PIECE, COUNT)) if (!tls.write(piece)) await once(tls, 'drain');
  await new Promise<void>((resolve) => tls.end(resolve));
}

/** Whether a process sleeps while input is available: it would be awake if it read. */
function isHeldUp(pid: number, octets: number): boolean {
  return octets > 0 && statusOf(pid, 'State').startsWith('S');
}

function residentKiB(pid: number): number {
  return Number.parseInt(statusOf(pid, 'VmRSS'), 10);
}
