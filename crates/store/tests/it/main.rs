//! The driver against real databases: the same cases on `SQLite` and on a private `PostgreSQL` server, and what each
//! engine has alone; and the product's queries in [`resources`].

mod child;
mod company;
mod durability;
mod fixture;
mod group_commit;
mod postgres_faults;
mod resources;
mod schema;
mod sqlite_faults;
mod statements;
mod tls;
mod transactions;
mod url;
