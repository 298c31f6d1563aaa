/** The log of a resident server: lib/server/log.ts. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { createLog, type Log } from '../../../lib/server/log.ts';

/** What a log writes. */
function written(level: number, act: (log: Log) => void): string[] {
  const lines: string[] = [];
  act(createLog('server', level, (line) => lines.push(line) > 0));
  return lines;
}

/** A value as written in a line. */
function asValue(value: string | number): string | undefined {
  return written(0, (log) => log.fatal('e', { value }))[0]?.replace('server: fatal: event=e value=', '');
}

function sayAll(log: Log): void {
  log.debug('d');
  log.info('i');
  log.warning('w');
  log.fatal('f');
}

describe('the level', () => {
  const all = [
    'server: debug: event=d',
    'server: info: event=i',
    'server: warning: event=w',
    'server: fatal: event=f',
  ];
  for (const level of [0, 1, 2, 3, 4]) {
    it(`${level} logs what it should`, () => {
      assert.deepEqual(written(level, sayAll), all.slice(Math.max(0, 3 - level)));
    });
  }

  it('applies to a log with fields and to its reporter', () => {
    const lines = written(1, (log) => {
      const one = log.with({ id: 1 });
      one.info('no');
      one.reporter().info('no');
      one.reporter().warning('yes');
    });
    assert.deepEqual(lines, ['server: warning: event=session id=1 text=yes']);
  });
});

describe('a value', () => {
  for (const plain of ['a', '0', '-', 'A-Z.a_z:0/9@x+y', 'a@b:/var/x', 'TLSv1.3']) {
    it(`${plain} is not quoted`, () => assert.equal(asValue(plain), plain));
  }

  it('that is a number is not quoted', () => {
    assert.equal(asValue(0), '0');
    assert.equal(asValue(-1.5), '-1.5');
    assert.equal(asValue(1e21), '1e+21');
    assert.equal(asValue(Number.NaN), 'NaN');
  });

  for (const [what, value, line] of [
    ['nothing', '', '""'],
    ['spaces', ' a b ', '" a b "'],
    ['an equals sign', 'a=b', '"a=b"'],
    ['brackets', '[::1]:25', '"[::1]:25"'],
    ['quotes', 'say "hi"', String.raw`"say \"hi\""`],
    ['a backslash', String.raw`a\b`, String.raw`"a\\b"`],
    ['a backslash at its end', 'a\\', String.raw`"a\\"`],
    ['a backslash before a quote', '\\"', String.raw`"\\\""`],
    ['a line end', 'a\r\nserver: fatal: b', String.raw`"a\x0d\x0aserver: fatal: b"`],
    ['a line end behind it', 'a\n', String.raw`"a\x0a"`],
    ['ESC', '\x1b[31m', String.raw`"\x1b[31m"`],
    ['NUL and DEL', '\0\x7f', String.raw`"\x00\x7f"`],
    ['Latin 1', 'Jürgen', String.raw`"J\xfcrgen"`],
    ['more than Latin 1', 'Ω\u2028', String.raw`"\u03a9\u2028"`],
    ['a character of two code units', '\u{1f4e7}', String.raw`"\ud83d\udce7"`],
    ['half a character', '\ud83d', String.raw`"\ud83d"`],
  ] as const) {
    it(`with ${what} is quoted`, () => assert.equal(asValue(value), line));
  }

  it('is truncated when it is long', () => {
    assert.equal(asValue('x'.repeat(500)), 'x'.repeat(500));
    assert.equal(asValue('x'.repeat(100_000)), `${'x'.repeat(500)}...`);
    assert.equal(asValue('\n'.repeat(501)), `"${String.raw`\x0a`.repeat(500)}..."`);
  });
});

describe('a line', () => {
  it('is one line whatever its event, keys and program', () => {
    const lines: string[] = [];
    const log = createLog('a\nb', 0, (line) => lines.push(line) > 0);
    log.fatal('c\nd', { 'e\nf g=h': 'i' });
    assert.deepEqual(lines, [String.raw`a\x0ab: fatal: event="c\x0ad" e_f_g_h=i`]);
  });

  it('has its fields in order, without undefined ones', () => {
    const lines = written(0, (log) => log.fatal('e', { b: 1, gone: undefined, a: '2' }));
    assert.deepEqual(lines, ['server: fatal: event=e b=1 a=2']);
  });

  it('reports how many before it were lost', () => {
    const lines: string[] = [];
    let works = true;
    const log = createLog('server', 2, (line) => works && lines.push(line) > 0);
    log.info('first');
    works = false;
    log.info('lost');
    log.with({ id: 7 }).warning('lost');
    log.debug('not lost: not logged at this level');
    works = true;
    log.with({ id: 8 }).info('next', { a: 1 });
    log.info('last');
    assert.deepEqual(lines, [
      'server: info: event=first',
      'server: info: event=next id=8 a=1 lost_lines=2',
      'server: info: event=last',
    ]);
  });
});

describe('a log with fields', () => {
  it('adds them to every line, without changing the original log', () => {
    const lines = written(3, (log) => {
      const connection = log.with({ id: 7, remote: '192.0.2.1:4011' });
      connection.info('accepted');
      const client = connection.with({ proxy: '192.0.2.9' });
      client.debug('verdict', { verdict: 'tls' });
      connection.warning('w');
      log.fatal('f');
    });
    assert.deepEqual(lines, [
      'server: info: event=accepted id=7 remote=192.0.2.1:4011',
      'server: debug: event=verdict id=7 remote=192.0.2.1:4011 proxy=192.0.2.9 verdict=tls',
      'server: warning: event=w id=7 remote=192.0.2.1:4011',
      'server: fatal: event=f',
    ]);
  });

  it('keeps the later of two fields of one name', () => {
    const lines = written(0, (log) => {
      const proxied = log.with({ remote: 'proxy', id: 7 }).with({ remote: 'client' });
      proxied.fatal('e');
      proxied.fatal('e', { id: undefined });
    });
    assert.deepEqual(lines, [
      'server: fatal: event=e remote=client id=7',
      'server: fatal: event=e remote=client',
    ]);
  });
});

describe('the reporter of a log', () => {
  it('writes texts of a session, whose end is not that of the server', () => {
    const lines = written(2, (log) => {
      const report = log.with({ id: 7 }).reporter();
      report.fatal('unable to start smtpd: ENOENT');
      report.warning('smtpd said "no"');
      report.info('done');
    });
    assert.deepEqual(lines, [
      'server: warning: event=session id=7 text="unable to start smtpd: ENOENT"',
      String.raw`server: warning: event=session id=7 text="smtpd said \"no\""`,
      'server: info: event=session id=7 text=done',
    ]);
  });

  it('writes texts of another event', () => {
    const lines = written(1, (log) => log.reporter('secrets').warning('no key'));
    assert.deepEqual(lines, ['server: warning: event=secrets text="no key"']);
  });
});

describe('stderr', () => {
  const log = new URL('../../../lib/server/log.ts', import.meta.url).href;

  function run(act: string, stdio: 'pipe' | 'ignore' = 'pipe'): { status: number | null; stderr: string } {
    const program = `import { createLog } from ${JSON.stringify(log)};
      const log = createLog('server', 2);
      ${act}`;
    const args = ['--import', 'tsx', '--input-type=module', '--eval', program];
    const { status, stderr } = spawnSync(process.execPath, args, {
      encoding: 'latin1',
      stdio: ['ignore', stdio, 'pipe'],
      timeout: 30_000,
    });
    return { status, stderr };
  }

  it('receives the lines even if the process exits at once', () => {
    const { status, stderr } = run(`
      log.info('one', { text: 'a\\n\\u001b"\\u00fc' });
      log.debug('not logged');
      log.with({ id: 1 }).warning('two');
      process.exit(3);`);
    assert.equal(
      stderr,
      `server: info: event=one text="a\\x0a\\x1b\\"\\xfc"\nserver: warning: event=two id=1\n`,
    );
    assert.equal(status, 3);
  });

  it('may be closed', () => {
    const { status } = run(`
      import { closeSync } from 'node:fs';
      closeSync(2);
      log.info('one');
      process.exit(3);`);
    assert.equal(status, 3);
  });
});
