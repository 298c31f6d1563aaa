/** How ucspi-tlsd ends: with the status of its program, by signals, and when client or program has gone. */

import assert from 'node:assert/strict';
import { constants } from 'node:os';
import type { Duplex } from 'node:stream';
import { after, before, describe, it, type TestContext } from 'node:test';
import { type CertificateMaker, makeCertificates } from '../support/certificate.ts';
import { type Served, serve } from '../support/chain.ts';
import { connectTcp, runTlsd, type TlsdRun } from '../support/controlled-program.ts';
import { childrenOf, isGone, isNonBlocking, until } from '../support/processes.ts';
import { ours } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { collect, startTls } from '../support/tls-client.ts';

let certificates: CertificateMaker;
let environment: NodeJS.ProcessEnv;
before(() => {
  certificates = makeCertificates();
  const { certFile, keyFile } = certificates.selfSigned('mail.example.org');
  environment = { CERTFILE: certFile, KEYFILE: keyFile };
});
after(() => certificates.remove());

/** The stages of a connection, and the stream that the client reads at each. */
const STAGES: Readonly<Record<string, (tlsdRun: TlsdRun) => Promise<Duplex>>> = {
  'before the command': async ({ client }) => client,
  'in cleartext': async ({ client, program }) => {
    await program.close('control');
    assert.equal((await program.readAll('read')).length, 0);
    return client;
  },
  'before the handshake': async ({ client, program }) => {
    await program.write('control', 'y');
    return client;
  },
  'in the middle of the handshake': async ({ client, program }) => {
    await program.write('control', 'y');
    // The header of a record of 512 octets, and only one octet of it.
    await new Promise((resolve) => client.write(Buffer.from([22, 3, 1, 2, 0, 1]), resolve));
    return client;
  },
  'in the middle of TLS data': async ({ client, program }) => {
    await program.write('control', 'y');
    const tls = await startTls(client);
    tls.write('a line without an e');
    assert.equal((await program.read('read')).toString(), 'a line without an e');
    await program.write('write', '250 half a rep');
    // Read first, so that nothing is in transit when the client disconnects: when Node's TLS engine fails to send
    // the tickets after the handshake, it reports no error, and the client counts as slow for five minutes.
    assert.equal(await collect(tls).octets(14), '250 half a rep');
    return tls;
  },
};

function assertGone({ tlsd, program }: TlsdRun): Promise<void> {
  return until('both processes are gone', () => isGone(tlsd.pid) && isGone(program.pid));
}

describe('the exit status of ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  for (const [stage, reach] of Object.entries(STAGES)) {
    it(`is that of a program that exits ${stage}, and the client sees the end`, async (t) => {
      const tlsdRun = await runTlsd(t, { environment });
      const received = collect(await reach(tlsdRun)).all;
      tlsdRun.program.exit(7);
      // During a handshake, a reset is also an end.
      assert.match(await received.catch(String), /^$|ECONNRESET/);
      tlsdRun.client.end();
      assert.deepEqual(await tlsdRun.tlsd.ended, { code: 7, signal: null });
      await assertGone(tlsdRun);
    });

    it(`shows the signal that killed the program ${stage}`, async (t) => {
      const tlsdRun = await runTlsd(t, { environment });
      await reach(tlsdRun);
      tlsdRun.program.die('SIGKILL');
      tlsdRun.client.end();
      assert.deepEqual(await tlsdRun.tlsd.ended, { code: 128 + constants.signals.SIGKILL, signal: null });
      await assertGone(tlsdRun);
    });

    for (const [how, hangUp] of [
      ['hangs up', (tlsdRun: TlsdRun) => tlsdRun.client.destroy()],
      ['resets the connection', (tlsdRun: TlsdRun) => tlsdRun.client.resetAndDestroy()],
    ] as const) {
      it(`is that of the program when the client ${how} ${stage}`, async (t) => {
        const tlsdRun = await runTlsd(t, { environment });
        await reach(tlsdRun);
        hangUp(tlsdRun);
        const side = stage === 'before the command' || stage === 'in cleartext' ? 'stdin' : 'read';
        // A reset is an error for a program that reads the connection itself.
        await tlsdRun.program
          .readAll(side)
          .catch((error: Error) => assert.match(error.message, /ECONNRESET/));
        tlsdRun.program.exit(8);
        assert.deepEqual(await tlsdRun.tlsd.ended, { code: 8, signal: null });
        await assertGone(tlsdRun);
      });
    }
  }

  for (const [status, command, pattern] of [
    [
      127,
      ['/nonexistent/program'],
      /^ucspi-tlsd: fatal: cannot run \/nonexistent\/program: ENOENT \(no such program: [^\n]+\)\n$/,
    ],
    [
      126,
      ['/etc/passwd'],
      /^ucspi-tlsd: fatal: cannot run \/etc\/passwd: EACCES \(not an executable file, [^\n]+\)\n$/,
    ],
  ] as const) {
    it(`is ${status} for a program that cannot be started, with one line on stderr`, async (t) => {
      const served = await start(t, command);
      assert.deepEqual(await served.ended, { code: status, signal: null });
      await served.logs(pattern);
    });
  }

  it('is returned without waiting for a process that the program left behind', async (t) => {
    const served = await start(t, [
      'sh',
      '-c',
      'printf y >&3; cat <&3 >&2; sleep 1000 & echo $! >&5; exit 5',
    ]);
    const client = await served.connection;
    const tls = await startTls(client);
    const pid = Number(await collect(tls).all);
    t.after(() => process.kill(pid));
    tls.end();
    assert.deepEqual(await served.ended, { code: 5, signal: null });
    assert.equal(isGone(pid), false);
  });
});

describe('a signal to ucspi-tlsd', { concurrency: 8, timeout: 60_000 }, () => {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    for (const [stage, reach] of Object.entries(STAGES)) {
      it(`is passed on to the program, ${signal} ${stage}`, async (t) => {
        const tlsdRun = await runTlsd(t, { environment });
        await reach(tlsdRun);
        await tlsdRun.program.catch(signal);
        tlsdRun.tlsd.kill(signal);
        assert.equal(await tlsdRun.program.caught(), signal);
        tlsdRun.program.exit(9);
        tlsdRun.client.end();
        assert.deepEqual(await tlsdRun.tlsd.ended, { code: 9, signal: null });
        await assertGone(tlsdRun);
      });
    }
  }

  for (const [stage, reach] of Object.entries(STAGES)) {
    it(`finally kills a program that ignores it, ${stage}`, async (t) => {
      const tlsdRun = await runTlsd(t, { environment });
      await reach(tlsdRun);
      await tlsdRun.program.catch('SIGTERM');
      tlsdRun.tlsd.kill('SIGTERM');
      assert.equal(await tlsdRun.program.caught(), 'SIGTERM');
      assert.deepEqual(await tlsdRun.tlsd.ended, { code: 128 + constants.signals.SIGKILL, signal: null });
      await assertGone(tlsdRun);
    });
  }
});

describe('while ucspi-tlsd serves', { concurrency: 4, timeout: 60_000 }, () => {
  it('a program that closes its output first still receives data', async (t) => {
    const { client, program, tlsd } = await runTlsd(t, { environment });
    await program.write('control', 'y');
    const tls = await startTls(client);
    const received = collect(tls);
    await program.close('write');
    assert.equal(await received.all, '');
    tls.write('still here');
    assert.equal((await program.read('read')).toString(), 'still here');
    tls.end();
    assert.equal((await program.readAll('read')).length, 0);
    program.exit(0);
    assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
  });

  it('a program that closed its output before the handshake still receives data; the client sees the end', async (t) => {
    const { client, program } = await runTlsd(t, { environment });
    await program.write('control', 'y');
    await program.close('write');
    await until('ucspi-tlsd opens the connection', () => isNonBlocking(program.parent, 0));
    const tls = await startTls(client);
    const received = collect(tls);
    assert.equal(await received.all, '');
    tls.write('still here');
    assert.equal((await program.read('read')).toString(), 'still here');
  });

  it('a program that closes its input first can still send; data from the client is discarded', async (t) => {
    const { client, program, tlsd } = await runTlsd(t, { environment });
    await program.write('control', 'y');
    const tls = await startTls(client);
    const received = collect(tls);
    await program.close('read');
    tls.write('x'.repeat(300_000));
    await program.write('write', 'still here');
    assert.equal(await received.octets(10), 'still here');
    await program.write('write', ', and bye');
    program.exit(0);
    assert.equal(await received.all, 'still here, and bye');
    tls.end();
    assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
  });

  it('a program that has ended leaves no zombie while the client is connected', async (t) => {
    const { client, program, tlsd } = await runTlsd(t, { environment });
    await program.write('control', 'y');
    const tls = await startTls(client);
    const received = collect(tls);
    // Otherwise a part of the handshake may be unread at the end, and the connection be reset.
    tls.write('x');
    assert.equal(String(await program.read('read')), 'x');
    program.exit(0);
    assert.equal(await received.all, '');
    assert.equal(isGone(tlsd.pid), false);
    await until('the program is gone', () => isGone(program.pid));
    assert.deepEqual(childrenOf(tlsd.pid), []);
    // ucspi-tlsd then ends after a timeout.
    assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
  });

  it('descriptors 0 and 1 that are not a connection are reported, and the program continues', async () => {
    const program = 'printf y >&3; cat <&3; cat <&4; exit 4';
    const folder = certificates.folder;
    const line = `exec ${ours('ucspi-tlsd')} sh -c '${program}' < /dev/null > ${folder}/out`;
    const { status, stderr } = await run(['sh', '-c', line], { environment });
    assert.equal(
      stderr,
      'ucspi-tlsd: warning: unable to start TLS with an unknown address: ' +
        'unable to use descriptors 0 and 1: not a network connection\n',
    );
    assert.equal(status, 4);
  });
});

/** Starts ucspi-tlsd with a program other than the program, and connects to it. */
async function start(
  t: TestContext,
  command: readonly string[],
): Promise<Served & { connection: ReturnType<typeof connectTcp> }> {
  const chain = await serve([ours('ucspi-tlsd'), ...command], environment);
  t.after(chain.close);
  const connection = connectTcp(chain.port);
  const client = await connection;
  t.after(() => client.destroy());
  return { ...(await chain.served(0)), connection };
}
