/** The addresses of the connection in smtpd's environment, without a tcpserver in the chain that sets them. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { describe, it, type TestContext } from 'node:test';
import { type Chain, NO_UCSPI_TCP, serve } from '../support/chain.ts';
import { runTlsd } from '../support/controlled-program.ts';
import { isNonBlocking } from '../support/processes.ts';
import { fixture, ours } from '../support/programs.ts';
import { certificate, runShim } from '../support/shim.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { collect, startTls } from '../support/tls-client.ts';

const { certFile, keyFile } = certificate();
const KEYS: NodeJS.ProcessEnv = { CERTFILE: certFile, KEYFILE: keyFile };
const NAMES = ['PROTO', 'TCPREMOTEIP', 'TCPREMOTEPORT', 'TCPLOCALIP', 'TCPLOCALPORT'];

/** The values of `NAMES`, as they are for a client of 127.0.0.1. */
function expected(remotePort: number, localPort: number): string[] {
  return ['TCP', '127.0.0.1', String(remotePort), '127.0.0.1', String(localPort)];
}

function valuesIn(environment: NodeJS.ProcessEnv): (string | undefined)[] {
  return NAMES.map((name) => environment[name]);
}

async function environmentOf(client: SmtpClient): Promise<NodeJS.ProcessEnv> {
  return JSON.parse((await client.ask('XDO environment')).slice(4));
}

function portOf(client: SmtpClient): number {
  return client.tcp().localPort ?? 0;
}

describe('the shim', { concurrency: 3, timeout: 60_000 }, () => {
  it("derives the client's address from the variables of sslserver", async (t) => {
    const { client, port } = await runShim(t, { server: 'sslserver' });
    await client.reply();
    const environment = await environmentOf(client);
    assert.deepEqual(valuesIn(environment), expected(portOf(client), port));
    assert.equal(environment.TCPREMOTEHOST, 'client.example.org');
    assert.equal(environment.TCPLOCALHOST, 'mail.example.org');
    assert.equal(environment.TCPREMOTEINFO, undefined);
    assert.equal(environment.SSLREMOTEIP, '127.0.0.1');
  });

  it('derives it from the connection if nothing is set, and STARTTLS works as usual', async (t) => {
    const { client, port, ...run } = await runShim(t, {
      environment: NO_UCSPI_TCP,
      options: ['-v2', '--fresh'],
    });
    await client.reply();
    assert.deepEqual(valuesIn(await environmentOf(client)), expected(portOf(client), port));
    await client.startTls();
    assert.deepEqual(valuesIn(await environmentOf(client)), expected(portOf(client), port));
    await run.served.logs(/^smtpd-starttls-proxy-io: info: TLS with 127\.0\.0\.1: /m);
  });

  it('gives a plain IPv4 address for an IPv6 socket', async (t) => {
    const words = [...fixture('s6-ucspitlsd-double'), ours('smtpd-starttls-proxy-io')];
    const chain = await serve(
      [...words, ...fixture('smtpd-script')],
      { ...KEYS, ...NO_UCSPI_TCP },
      '::ffff:127.0.0.1',
    );
    const client = await connectTo(t, chain);
    assert.deepEqual(valuesIn(await environmentOf(client)), expected(portOf(client), chain.port));
  });

  it('keeps what is set, even if it is incomplete', async (t) => {
    const set = { ...NO_UCSPI_TCP, TCPREMOTEIP: '192.0.2.1', SSLREMOTEHOST: 'other.example' };
    const { client } = await runShim(t, { environment: set });
    await client.reply();
    const environment = await environmentOf(client);
    assert.deepEqual(valuesIn(environment), [undefined, '192.0.2.1', undefined, undefined, undefined]);
    assert.equal(environment.TCPREMOTEHOST, undefined);
  });

  it('keeps host names that are set without an address', async (t) => {
    const { client, port } = await runShim(t, {
      environment: { ...NO_UCSPI_TCP, TCPLOCALHOST: 'here.example', SSLLOCALHOST: 'there.example' },
    });
    await client.reply();
    const environment = await environmentOf(client);
    assert.deepEqual(valuesIn(environment), expected(portOf(client), port));
    assert.equal(environment.TCPLOCALHOST, 'here.example');
  });

  it('uses the connection if the variables of sslserver are invalid', async (t) => {
    const { client, port } = await runShim(t, {
      environment: { ...NO_UCSPI_TCP, SSLREMOTEIP: 'client', SSLREMOTEPORT: '25' },
    });
    await client.reply();
    assert.deepEqual(valuesIn(await environmentOf(client)), expected(portOf(client), port));
  });
});

describe('ucspi-tlsd', { concurrency: 3, timeout: 60_000 }, () => {
  it("derives the client's address from the connection and does not change it", async (t) => {
    const { client, tlsd, program } = await runTlsd(t, {
      environment: { ...KEYS, ...NO_UCSPI_TCP },
      options: ['-v2'],
    });
    const ports = [client.localPort ?? 0, client.remotePort ?? 0] as const;
    assert.deepEqual(valuesIn(program.environment), expected(...ports));
    client.write('EHLO client.example\r\n');
    assert.equal((await program.read('stdin')).toString(), 'EHLO client.example\r\n');
    assert.deepEqual(
      [program.parent, program.pid].flatMap((pid) => [isNonBlocking(pid, 0), isNonBlocking(pid, 1)]),
      [false, false, false, false],
    );
    await program.write('stdout', '250 mail.example.org\r\n');
    await new Promise((resolve) => client.once('data', resolve));
    await program.write('control', 'Y');
    const tls = await startTls(client);
    await tlsd.logs(/^ucspi-tlsd: info: TLS with 127\.0\.0\.1: /m);
    await program.write('write', 'hello');
    assert.equal(await collect(tls).octets(5), 'hello');
  });

  it('releases a connection that it has derived the address from', async (t) => {
    const { client, program } = await runTlsd(t, { environment: { ...KEYS, ...NO_UCSPI_TCP } });
    await program.close('control');
    const received = collect(client);
    await program.readAll('read');
    await program.write('stdout', 'bye');
    await program.close('stdin');
    await program.close('stdout');
    assert.equal(await received.all, 'bye');
  });

  it('passes it to the shim, and so to smtpd', async (t) => {
    const { client, port } = await runShim(t, {
      server: 'ucspi-tlsd',
      environment: NO_UCSPI_TCP,
      options: ['--fresh'],
    });
    await client.reply();
    await client.startTls();
    const environment = await environmentOf(client);
    assert.deepEqual(valuesIn(environment), expected(portOf(client), port));
    assert.equal(environment.SSL_PROTOCOL, 'TLSv1.3');
  });

  it('derives it from the variables of an sslserver earlier in the chain', async (t) => {
    const above = {
      ...{ PROTO: 'SSL', SSLREMOTEIP: '::ffff:192.0.2.1', SSLREMOTEPORT: '4000', SSLREMOTEINFO: 'joe' },
      ...{ SSLLOCALIP: '2001:db8::25', SSLLOCALPORT: '25' },
    };
    const { program } = await runTlsd(t, { environment: { ...KEYS, ...NO_UCSPI_TCP, ...above } });
    assert.deepEqual(valuesIn(program.environment), ['TCP', '192.0.2.1', '4000', '2001:db8::25', '25']);
    assert.equal(program.environment.TCPREMOTEINFO, 'joe');
  });

  it('derives nothing if descriptor 0 is not a network connection', async (t) => {
    for (const stdin of ['pipe', 'ignore'] as const) {
      const child = spawn(ours('ucspi-tlsd'), ['sh', '-c', 'test "$TCPREMOTEIP" || echo none'], {
        env: { ...process.env, ...KEYS, ...NO_UCSPI_TCP },
        stdio: [stdin, 'pipe', 'inherit'],
      });
      t.after(() => child.kill('SIGKILL'));
      let printed = '';
      child.stdout?.on('data', (bytes: Buffer) => {
        printed += bytes.toString('latin1');
      });
      const status = await new Promise((resolve) => child.on('close', resolve));
      assert.deepEqual([status, printed], [0, 'none\n']);
    }
  });
});

async function connectTo(t: TestContext, chain: Chain): Promise<SmtpClient> {
  t.after(chain.close);
  const client = await connectSmtp(chain.port);
  t.after(client.destroy);
  await client.reply();
  return client;
}
