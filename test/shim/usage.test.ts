/** Command lines and environments that the shim refuses: one line on stderr and exit status 100. */

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { openSync } from 'node:fs';
import { describe, it } from 'node:test';
import { ours } from '../support/programs.ts';

const SHIM = ours('smtpd-starttls-proxy-io');
const GOOD = { SSLCTLFD: '3', SSLREADFD: '4', SSLWRITEFD: '5' };

interface Outcome {
  readonly status: number | null;
  readonly stderr: string;
  readonly stdout: string;
}

/** Runs the shim with pipes on 0 to 2 (sockets, as Node makes them) and `more` from 3 on, by default three pipes. */
async function run(
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
  more: readonly ('pipe' | 'ignore' | number)[] = ['pipe', 'pipe', 'pipe'],
): Promise<Outcome> {
  const env = { ...process.env, ...environment };
  const child = spawn(SHIM, args, { env, stdio: ['pipe', 'pipe', 'pipe', ...more] });
  let stderr = '';
  let stdout = '';
  child.stderr?.on('data', (bytes) => {
    stderr += bytes;
  });
  child.stdout?.on('data', (bytes) => {
    stdout += bytes;
  });
  child.stdin?.end();
  const status = await new Promise<number | null>((resolve) => child.on('close', resolve));
  return { status, stderr, stdout };
}

function assertRefusal({ status, stderr, stdout }: Outcome, why: string): void {
  assert.equal(stderr, `smtpd-starttls-proxy-io: fatal: ${why}\n`);
  assert.equal(status, 100);
  assert.equal(stdout, '');
}

describe('the environment', { concurrency: 4 }, () => {
  for (const name of ['SSLCTLFD', 'SSLREADFD', 'SSLWRITEFD']) {
    const kinds = name === 'SSLCTLFD' ? 'socket' : 'socket or pipe';
    for (const [value, why] of [
      [undefined, `${name} is not set; is there a UCSPI-TLS server above?`],
      ['', `${name} is not a descriptor number: `],
      ['three', `${name} is not a descriptor number: three`],
      ['-3', `${name} is not a descriptor number: -3`],
      ['3 ', `${name} is not a descriptor number: 3 `],
      ['0x3', `${name} is not a descriptor number: 0x3`],
      ['99999999999', `${name} is not a descriptor number: 99999999999`],
      ['0', `${name} names descriptor 0, which is a standard descriptor`],
      ['1', `${name} names descriptor 1, which is a standard descriptor`],
      ['02', `${name} names descriptor 2, which is a standard descriptor`],
      ['97', `${name} names descriptor 97, which is not open`],
      ['999999999', `${name} names descriptor 999999999, which is not open`],
      ['6', `${name} names descriptor 6, which is not a ${kinds}`],
    ] as const) {
      it(`that has ${value === undefined ? 'no ' : ''}${name} ${value === undefined ? '' : `"${value}" `}is refused`, async () => {
        const file = openSync('/etc/passwd', 'r');
        const outcome = await run(['true'], { ...GOOD, [name]: value }, ['pipe', 'pipe', 'pipe', file]);
        assertRefusal(outcome, `unable to find the UCSPI-TLS server: ${why}`);
      });
    }
  }

  it('that names a descriptor that smtpd would inherit is refused', async () => {
    const gap = Array.from({ length: 47 }, () => 'ignore' as const);
    const outcome = await run(['true'], { ...GOOD, SSLREADFD: '53' }, [
      'pipe',
      'pipe',
      'pipe',
      ...gap,
      'pipe',
    ]);
    const why = 'SSLREADFD names descriptor 53, too high to be closed in smtpd';
    assertRefusal(outcome, `unable to find the UCSPI-TLS server: ${why}`);
  });

  it('that names a pipe for the control socket is refused', async () => {
    const script = '"$0" true 3<&0 </dev/null';
    const { status, stderr } = spawnSync('sh', ['-c', `: | ${script}`, SHIM], {
      env: { ...process.env, ...GOOD },
    });
    assert.match(String(stderr), /SSLCTLFD names descriptor 3, which is not a socket\n$/);
    assert.equal(status, 100);
  });

  it('that names one of Node’s own descriptors is refused, each', async () => {
    // With only a control socket inherited, all descriptors above 3 are Node's own.
    for (let fd = 4; fd < 26; fd++) {
      const outcome = await run(['true'], { SSLCTLFD: '3', SSLREADFD: String(fd), SSLWRITEFD: '3' }, [
        'pipe',
      ]);
      assert.equal(outcome.status, 100, `descriptor ${fd}: ${outcome.stderr}`);
      assert.match(
        outcome.stderr,
        /SSLREADFD names descriptor \d+, which is (not open|not a socket or pipe)\n$/,
      );
    }
  });
});

describe('the command line', { concurrency: 4 }, () => {
  for (const [args, why] of [
    [[], 'missing smtpd command'],
    [['--'], 'missing smtpd command'],
    [['-r'], 'missing smtpd command'],
    [['-r', '-a', 'true'], '--require-tls and --plaintext-auth contradict each other'],
    [['-ra', 'true'], '--require-tls and --plaintext-auth contradict each other'],
    [['-t', '0', 'true'], '--idle-timeout takes a whole number from 1 to 2000000, not 0'],
    [['-t', 'x', 'true'], '--idle-timeout takes a whole number from 1 to 2000000, not x'],
    [['-t', '1.5', 'true'], '--idle-timeout takes a whole number from 1 to 2000000, not 1.5'],
    [['--idle-timeout=-1', 'true'], '--idle-timeout takes a whole number from 1 to 2000000, not -1'],
    [['-T', '2000001', 'true'], '--relay-idle-timeout takes a whole number from 1 to 2000000, not 2000001'],
    [['--greet-delay', '301', 'true'], '--greet-delay takes a whole number from 0 to 300, not 301'],
    [['--error-limit', '0', 'true'], '--error-limit takes a whole number from 1 to 1000000, not 0'],
    [['-v', '10', 'true'], '--verbosity takes a whole number from 0 to 9, not 10'],
  ] as const) {
    it(`"${args.join(' ')}" is refused`, async () => {
      assertRefusal(await run(args, GOOD), `usage error: ${why}`);
    });
  }

  for (const args of [['-x', 'true'], ['--nonsense', 'true'], ['--fresh=yes', 'true'], ['-t']]) {
    it(`"${args.join(' ')}" is refused, and the message names the option`, async () => {
      const outcome = await run(args, GOOD);
      assert.equal(outcome.status, 100);
      assert.match(
        outcome.stderr,
        new RegExp(
          `^smtpd-starttls-proxy-io: fatal: usage error: [^\\n]*${args[0]?.split('=')[0]}[^\\n]*\\n$`,
        ),
      );
    });
  }

  it('belongs to smtpd from the first operand on', async () => {
    const outcome = await run(
      ['-v', '2', 'sh', '-c', 'echo "220 $0 $1 $2"; exit 9', '-r', '--help', '--'],
      GOOD,
    );
    assert.match(outcome.stdout, /^220 -r --help --\r\n/);
    assert.equal(outcome.status, 9);
  });
});

describe('descriptors 0 and 1', { concurrency: 4 }, () => {
  it('that are not a client’s connection are refused with 111', () => {
    const { status, stderr } = spawnSync(SHIM, ['true'], {
      env: { ...process.env, ...GOOD },
      stdio: [openSync('/etc/passwd', 'r'), openSync('/dev/null', 'w'), 'pipe', 'pipe', 'pipe', 'pipe'],
    });
    assert.match(
      String(stderr),
      /^[^\n]*fatal: unable to use descriptors 0 and 1, which must be sockets or pipes: ERR_INVALID_FD_TYPE \(they are a file or a terminal; [^\n]+\)\n$/,
    );
    assert.equal(status, 111);
  });

  it('may be a pipe each', () => {
    const script =
      'printf "NOOP\\r\\nQUIT\\r\\n" | "$0" sh -c \'echo 220 hi; while read l; do echo 250 ok; done\' | cat';
    const { stdout } = spawnSync('sh', ['-c', script, SHIM], {
      env: { ...process.env, ...GOOD },
      stdio: ['ignore', 'pipe', 'inherit', 'pipe', 'pipe', 'pipe'],
    });
    assert.equal(String(stdout), '220 hi\r\n250 ok\r\n250 ok\r\n');
  });

  it('that are closed are refused with 111', () => {
    const { status, stderr } = spawnSync('sh', ['-c', 'exec "$0" true <&- >&-', SHIM], {
      env: { ...process.env, ...GOOD },
      stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', 'pipe'],
    });
    assert.match(String(stderr), /^[^\n]*fatal: unable to use descriptors 0 and 1[^\n]*\n$/);
    assert.equal(status, 111);
  });
});
