"""SQLAlchemy's ORM on Azure Database for PostgreSQL: `python sqlalchemy_orm.py`."""

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

# Every new connection of the pool signs in with a fresh Microsoft Entra token.
engine = create_engine("postgresql+azpg:///postgres?server=myserver", pool_pre_ping=True)


class Base(DeclarativeBase):
    pass


class Fruit(Base):
    __tablename__ = "orm_fruit"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def main() -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([Fruit(name="apple"), Fruit(name="pear")])
    with Session(engine) as session:
        print(*session.scalars(select(Fruit.name).order_by(Fruit.name)))
    Base.metadata.drop_all(engine)
    engine.dispose()


if __name__ == "__main__":
    main()
