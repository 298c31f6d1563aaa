import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Pair } from './certificate.ts';
import { until } from './processes.ts';
import { ROOT } from './programs.ts';
import { assertContent } from './real-chain.ts';

/**
 * A command that runs exim as an smtpd, by the recipe of the man pages. It takes mail for example.net, and
 * delivers it to one file. TLS is not exim's business here.
 *
 * @param folder for all to read and write.
 */
export function eximIn(folder: string): string[] {
  const configuration = join(folder, 'exim.conf');
  writeFileSync(configuration, configurationFor(folder));
  return eximWith(folder, configuration);
}

/**
 * A command that runs exim as an smtpd, by the recipe of the man pages.
 *
 * @param folder for all to read and write.
 * @param configuration the path of a file that exists when the first client comes.
 */
export function eximWith(folder: string, configuration: string): string[] {
  const script = join(folder, 'exim-smtpd');
  const recipe = recipeIn('smtpd-starttls-server');
  writeFileSync(script, recipe.replace('exim4 -bs', `exim4 -C ${configuration} -odf -bs`), { mode: 0o755 });
  return [script];
}

/** The script in the section "What smtpd must know" of a man page. */
export function recipeIn(page: string): string {
  const text = readFileSync(join(ROOT, `docs/man/${page}.8.md`), 'utf8');
  const [, section = ''] = /^## What smtpd must know$(.*?)^## /ms.exec(text) ?? [];
  const [block = ''] = /(?:^ {4}.*\n)+/m.exec(section) ?? [];
  const recipe = block.replaceAll(/^ {4}/gm, '');
  assert.match(recipe, /^#!\/bin\/sh\nexec exim4 -bs -oMa /);
  return recipe;
}

/**
 * A command that runs exim as an SMTP server for the connection on its standard input, with TLS of its own. It takes
 * mail for example.net and delivers it to one file.
 *
 * @param folder for all to read and write.
 * @param pair its certificate.
 * @param mechanism which AUTH it offers, in TLS, for alice with the password "wonder land", and then requires; undefined
 * for none.
 */
export function eximServerIn(folder: string, pair: Pair, mechanism?: keyof typeof AUTHENTICATORS): string[] {
  const files = { tls_certificate: pair.certFile, tls_privatekey: pair.keyFile };
  const options = Object.entries(files).map(([option, path]) => {
    copyFileSync(path, join(folder, option));
    // exim has become another user when it reads them.
    chmodSync(join(folder, option), 0o644);
    return `${option} = ${folder}/${option}`;
  });
  const configuration = join(folder, 'exim.conf');
  const offer = `auth_advertise_hosts = \${if eq{$tls_in_cipher}{}{}{*}}`;
  const authenticated = '  deny !authenticated = *\n  accept domains';
  const text = configurationFor(folder, ['tls_advertise_hosts = *', offer, ...options].join('\n'));
  writeFileSync(
    configuration,
    mechanism === undefined
      ? text
      : `${text.replace('  accept hosts = :\n  accept domains', authenticated)}begin authenticators\n${AUTHENTICATORS[mechanism]}`,
  );
  return ['exim4', '-C', configuration, '-odf', '-bs'];
}

const AUTHENTICATORS = {
  PLAIN: `
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = \${if and{{eq{$auth2}{alice}}{eq{$auth3}{wonder land}}}}
  server_set_id = $auth2
`,
  LOGIN: `
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = User Name : Password
  server_condition = \${if and{{eq{$auth1}{alice}}{eq{$auth2}{wonder land}}}}
  server_set_id = $auth1
`,
  'CRAM-MD5': `
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = \${if eq{$auth1}{alice}{wonder land}fail}
  server_set_id = $auth1
`,
};

function configurationFor(folder: string, tls = 'tls_advertise_hosts ='): string {
  return `
primary_hostname = mail.example.org
spool_directory = ${folder}/spool
log_file_path = ${folder}/%slog
${tls}
acl_smtp_rcpt = check_rcpt
keep_environment =
deliver_drop_privilege
begin acl
check_rcpt:
  # Debian has this too: it is for programs of this host, which are on no socket.
  accept hosts = :
  accept domains = example.net
  deny message = relay not permitted
begin routers
all:
  driver = accept
  transport = mailbox
begin transports
mailbox:
  driver = appendfile
  file = ${folder}/mailbox
`;
}

/**
 * A command for the other side of ssh: exim as an SMTP server on pipes, as `sendmail -bs` is. Its client is a user of this
 * host, whose mail it takes for all domains, and delivers to one file.
 *
 * @param folder for all to read and write.
 */
export function eximOnPipesIn(folder: string): string {
  const configuration = join(folder, 'exim.conf');
  writeFileSync(configuration, configurationFor(folder));
  return `/usr/sbin/exim4 -C ${configuration} -odf -bs`;
}

/**
 * A command that has exim send the message on its standard input, and ends when that is done. What the next hop offers
 * is used: PIPELINING, and CHUNKING.
 *
 * @param folder for all to read and write.
 * @param port where it sends, on 127.0.0.1.
 */
export function eximClientIn(folder: string, port: number, sender: string, recipient: string): string[] {
  const configuration = join(folder, 'exim-client.conf');
  const text = `
primary_hostname = client.example
spool_directory = ${folder}/client-spool
log_file_path = ${folder}/client-%slog
keep_environment =
begin routers
all:
  driver = manualroute
  transport = smtp
  route_list = * 127.0.0.1::${port}
  self = send
begin transports
smtp:
  driver = smtp
  hosts_try_chunking = *
  hosts_avoid_tls = *
  allow_localhost
`;
  writeFileSync(configuration, text);
  return ['exim4', '-C', configuration, '-odf', '-i', '-f', sender, recipient];
}

/** Waits for the message in that file. */
export async function assertInMailbox(folder: string): Promise<void> {
  const read = (): string => {
    try {
      return readFileSync(join(folder, 'mailbox'), 'latin1');
    } catch {
      return '';
    }
  };
  // exim takes the message first and delivers it then.
  await until('the message is in the mailbox', () => read().includes('Yours, Alice'));
  assertContent(read());
}
