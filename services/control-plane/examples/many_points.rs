//! Fills a control plane's database, which no server may have open, for tests of what is large:
//! `many_points DATABASE POINTS JOBS` makes of its newest job one of POINTS logged points, with one sample that sticks
//! out, and adds JOBS jobs before it. Prints the large job's id.

use sqlx::{Connection as _, SqliteConnection};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, points, jobs] = &arguments[..] else {
        return Err("usage: many_points DATABASE POINTS JOBS".into());
    };
    let (points, jobs): (i64, i64) = (points.parse()?, jobs.parse()?);
    let mut connection = SqliteConnection::connect(&format!("sqlite://{database}")).await?;
    let (ord, id): (i64, String) = sqlx::query_as("SELECT ord, id FROM jobs ORDER BY ord DESC LIMIT 1")
        .fetch_one(&mut connection)
        .await?;
    // The copies get the place before it: the large job stays the newest.
    sqlx::query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
         INSERT INTO jobs (ord, id, org_id, project_id, name, status, config, created_at, started_at, completed_at)
         SELECT -i, 'filler-' || i, org_id, project_id, 'filler ' || i,
                CASE i % 3 WHEN 0 THEN 'completed' WHEN 1 THEN 'failed' ELSE 'cancelled' END,
                '{}', created_at, created_at, created_at
         FROM jobs, n WHERE ord = $2 AND $1 > 0",
    )
    .bind(jobs)
    .bind(ord)
    .execute(&mut connection)
    .await?;
    sqlx::query("DELETE FROM events WHERE job = $1").bind(ord).execute(&mut connection).await?;
    sqlx::query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
         INSERT INTO events (job, seq, type, step, data)
         SELECT $2, i, 'training.log', i,
                '{\"type\":\"training.log\",\"jobId\":\"' || $3 || '\",\"timestamp\":\"' ||
                strftime('%Y-%m-%dT%H:%M:%fZ', 1767225600 + i / 10.0, 'unixepoch') || '\",\"step\":' || i ||
                ',\"loss\":' || CASE WHEN i = 777777 % $1 + 1 THEN '9.0' ELSE printf('%.6f', 1.0 + (i * 7919 % 1000) / 10000.0) END ||
                CASE WHEN i % 1000 = 0 THEN ',\"evalLoss\":1.5' ELSE '' END || '}' FROM n",
    )
    .bind(points)
    .bind(ord)
    .bind(&id)
    .execute(&mut connection)
    .await?;
    sqlx::query("UPDATE jobs SET last_seq = $1 WHERE ord = $2")
        .bind(points)
        .bind(ord)
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    println!("{id}");
    Ok(())
}
